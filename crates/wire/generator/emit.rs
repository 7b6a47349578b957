//! The output of the generator: Rust sources, laid out as rustfmt wants them.

use std::fmt::Write;

use super::spec::{Argument, Class, Kind, Method, Sender};

/// Every generated file: its path from the crate's root, and its text.
pub fn files(classes: &[Class]) -> Vec<(String, String)> {
    let mut files = vec![("src/method/any.rs".to_string(), any(classes))];
    for class in classes {
        files.push((format!("src/method/{}.rs", class.name), class_file(class)));
        if !class.properties.is_empty() {
            files.push(("src/properties/list.rs".to_string(), properties(class)));
        }
    }
    files
}

/// Appends a line, formatted.
macro_rules! line {
    ($out:ident) => { $out.push('\n') };
    ($out:ident, $($format:tt)*) => {
        writeln!($out, $($format)*).expect("a String takes everything")
    };
}

const ORIGIN: &str =
    "Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.";

/// The enum of all methods, and what is known about each.
fn any(classes: &[Class]) -> String {
    let mut out = String::new();
    let all: Vec<(&Class, &Method)> = classes
        .iter()
        .flat_map(|class| class.methods.iter().map(move |method| (class, method)))
        .collect();
    line!(out, "//! All methods. {ORIGIN}");
    line!(out);
    line!(out, "use super::Facts;");
    line!(out, "use super::Sender::{{Both, Client, Server}};");
    let mut names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
    names.sort_unstable();
    line!(out, "use super::{{{}}};", names.join(", "));
    line!(out, "use crate::error::Malformed;");
    line!(out);
    line!(out, "/// A decoded method of any class.");
    line!(out, "#[derive(Clone, Copy, Debug, PartialEq, Eq)]");
    line!(out, "pub enum Method<'a> {{");
    for (class, method) in &all {
        line!(out, "    /// `{}.{}`", class.name, method.name);
        line!(
            out,
            "    {}({}),",
            variant(class, method),
            path_type(class, method)
        );
    }
    line!(out, "}}");
    line!(out);
    line!(
        out,
        "/// What is known about each method, in the order of [`Method`]'s variants."
    );
    line!(out, "pub(super) static ALL: [Facts; {}] = [", all.len());
    for (class, method) in &all {
        let (class_id, id, sender, content) = (class.id, method.id, method.sender, method.content);
        let name = format!("{}.{}", class.name, method.name);
        line!(
            out,
            "    Facts::new({class_id}, {id}, \"{name}\", {sender:?}, {content}),"
        );
    }
    line!(out, "];");
    line!(out);
    line!(out, "impl<'a> Method<'a> {{");
    line!(out, "    pub(super) fn facts(&self) -> &'static Facts {{");
    line!(out, "        match self {{");
    for (index, (class, method)) in all.iter().enumerate() {
        line!(
            out,
            "            Self::{}(_) => &ALL[{index}],",
            variant(class, method)
        );
    }
    line!(out, "        }}");
    line!(out, "    }}");
    line!(out);
    line!(
        out,
        "    /// Decodes the arguments of a method; `None` if there is no such method."
    );
    line!(out, "    pub(super) fn decode_arguments(");
    line!(out, "        class_id: u16,");
    line!(out, "        method_id: u16,");
    line!(out, "        arguments: &'a [u8],");
    line!(out, "    ) -> Result<Option<Self>, Malformed> {{");
    line!(out, "        Ok(Some(match (class_id, method_id) {{");
    for (class, method) in &all {
        let (variant, module, name) = (variant(class, method), &class.name, camel(&method.name));
        let arm = format!("            ({}, {}) =>", class.id, method.id);
        let value = format!("Self::{variant}({module}::{name}::decode(arguments)?)");
        if arm.len() + value.len() + 2 <= 100 {
            line!(out, "{arm} {value},");
        } else {
            line!(out, "{arm} {{");
            line!(out, "                {value}");
            line!(out, "            }}");
        }
    }
    line!(out, "            _ => return Ok(None),");
    line!(out, "        }}))");
    line!(out, "    }}");
    line!(out);
    line!(out, "    /// Appends the whole method frame to `out`.");
    line!(
        out,
        "    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {{"
    );
    line!(out, "        match self {{");
    for (class, method) in &all {
        line!(
            out,
            "            Self::{}(method) => method.write(channel, out),",
            variant(class, method)
        );
    }
    line!(out, "        }}");
    line!(out, "    }}");
    line!(out, "}}");
    out
}

/// The file of one class.
fn class_file(class: &Class) -> String {
    let mut out = String::new();
    line!(out, "//! Class `{}` ({}). {ORIGIN}", class.name, class.id);
    line!(out);
    let uses = |kind| {
        let mut arguments = class.methods.iter().flat_map(|method| &method.arguments);
        arguments.any(|argument| argument.kind == kind && !argument.is_reserved())
    };
    line!(out, "use crate::codec::{{self, Reader}};");
    line!(out, "use crate::error::Malformed;");
    line!(out, "use crate::frame;");
    if uses(Kind::ShortStr) {
        line!(out, "use crate::short_str::ShortStr;");
    }
    if uses(Kind::Table) {
        line!(out, "use crate::table::Table;");
    }
    for method in &class.methods {
        line!(out);
        definition(&mut out, class, method);
        line!(out);
        let generics = lifetime(method);
        line!(out, "impl{generics} {}{generics} {{", camel(&method.name));
        line!(out, "    /// Class of the method.");
        line!(out, "    pub const CLASS_ID: u16 = {};", class.id);
        line!(out, "    /// The method in its class.");
        line!(out, "    pub const METHOD_ID: u16 = {};", method.id);
        line!(out);
        write_fn(&mut out, method);
        line!(out);
        decode_fn(&mut out, method);
        line!(out, "}}");
    }
    out
}

fn definition(out: &mut String, class: &Class, method: &Method) {
    let sender = match method.sender {
        Sender::Client => "clients",
        Sender::Server => "the server",
        Sender::Both => "both sides",
    };
    let content = if method.content { ", with content" } else { "" };
    line!(
        out,
        "/// `{}.{}`, sent by {sender}{content}.",
        class.name,
        method.name
    );
    line!(out, "#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]");
    let name = camel(&method.name);
    if fields(method).count() == 0 {
        line!(out, "pub struct {name};");
        return;
    }
    line!(out, "pub struct {name}{} {{", lifetime(method));
    for argument in fields(method) {
        line!(out, "    /// `{}`", argument.name);
        line!(
            out,
            "    pub {}: {},",
            snake(&argument.name),
            rust_type(argument.kind)
        );
    }
    line!(out, "}}");
}

fn write_fn(out: &mut String, method: &Method) {
    line!(out, "    /// Appends the whole method frame to `out`.");
    line!(out, "    #[inline]");
    line!(
        out,
        "    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {{"
    );
    let variable: Vec<String> = fields(method).filter_map(variable_len).collect();
    let mutable = if variable.is_empty() { "" } else { "mut " };
    line!(out, "        let {mutable}len = {};", fixed_len(method));
    for term in variable {
        line!(out, "        len += {term};");
    }
    line!(
        out,
        "        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);"
    );
    let mut rest = method.arguments.as_slice();
    while let Some(first) = rest.first() {
        let (run, after) = rest.split_at(run_len(rest));
        rest = after;
        if first.kind == Kind::Bit {
            write_bits(out, run);
        } else {
            line!(out, "        {};", put(first));
        }
    }
    line!(out, "        out.push(frame::END);");
    line!(out, "    }}");
}

fn write_bits(out: &mut String, run: &[Argument]) {
    let value = |argument: &Argument, index: usize| {
        let bit = format!("u8::from(self.{})", snake(&argument.name));
        if index == 0 {
            bit
        } else {
            format!("{bit} << {index}")
        }
    };
    match run {
        [only] if only.is_reserved() => line!(out, "        out.push(0);"),
        [only] => line!(out, "        out.push({});", value(only, 0)),
        [first, more @ ..] => {
            line!(out, "        let mut bits = {};", value(first, 0));
            for (index, argument) in more.iter().enumerate() {
                line!(out, "        bits |= {};", value(argument, index + 1));
            }
            line!(out, "        out.push(bits);");
        }
        [] => {}
    }
}

fn decode_fn(out: &mut String, method: &Method) {
    let slice = if lifetime(method).is_empty() {
        "&[u8]"
    } else {
        "&'a [u8]"
    };
    line!(
        out,
        "    pub(super) fn decode(arguments: {slice}) -> Result<Self, Malformed> {{"
    );
    let mutable = if method.arguments.is_empty() {
        ""
    } else {
        "mut "
    };
    line!(out, "        let {mutable}reader = Reader::new(arguments);");
    let mut initializers = Vec::new();
    let mut rest = method.arguments.as_slice();
    while let Some(first) = rest.first() {
        let (run, after) = rest.split_at(run_len(rest));
        rest = after;
        let name = snake(&first.name);
        if first.kind == Kind::Bit {
            if run.iter().all(Argument::is_reserved) {
                line!(out, "        reader.octet()?;");
                continue;
            }
            line!(out, "        let bits = reader.octet()?;");
            for (index, argument) in run.iter().enumerate() {
                let mask = 1 << index;
                initializers.push(format!(
                    "{}: bits & {mask:#04x} != 0",
                    snake(&argument.name)
                ));
            }
        } else if first.is_reserved() {
            line!(out, "        reader.{}()?;", reader_fn(first.kind));
        } else {
            line!(
                out,
                "        let {name} = reader.{}()?;",
                reader_fn(first.kind)
            );
            initializers.push(name);
        }
    }
    line!(out, "        reader.finish()?;");
    let one_line = initializers.join(", ");
    if initializers.is_empty() {
        line!(out, "        Ok(Self)");
    } else if one_line.len() <= 18 {
        line!(out, "        Ok(Self {{ {one_line} }})");
    } else {
        line!(out, "        Ok(Self {{");
        for initializer in initializers {
            line!(out, "            {initializer},");
        }
        line!(out, "        }})");
    }
    line!(out, "    }}");
}

/// The property list: flags, layout, getters, builder.
fn properties(class: &Class) -> String {
    let mut out = String::new();
    let all = &class.properties;
    line!(
        out,
        "//! The properties of class `{}`. {ORIGIN}",
        class.name
    );
    line!(out);
    line!(out, "use super::{{Kind, Properties}};");
    line!(out, "use crate::codec;");
    line!(out, "use crate::short_str::ShortStr;");
    line!(out, "use crate::table::Table;");
    line!(out);
    line!(out, "/// Layouts, from the highest flag downwards.");
    line!(out, "pub(super) const KINDS: [Kind; {}] = [", all.len());
    for property in all {
        line!(out, "    Kind::{:?},", property.kind);
    }
    line!(out, "];");
    line!(out);
    let known: u16 = (0..all.len()).map(|index| 0x8000 >> index).sum();
    line!(out, "pub(super) const KNOWN_FLAGS: u16 = {known:#06x};");
    for (index, property) in all.iter().enumerate() {
        line!(
            out,
            "pub(super) const {}: u16 = {:#06x};",
            shout(&property.name),
            0x8000 >> index
        );
    }
    line!(out);
    line!(out, "impl<'a> Properties<'a> {{");
    for (index, property) in all.iter().enumerate() {
        if index > 0 {
            line!(out);
        }
        line!(
            out,
            "    /// The property `{}`, if it is set.",
            property.name
        );
        line!(out, "    #[inline]");
        let (name, kind) = (snake(&property.name), rust_type(property.kind));
        line!(out, "    pub fn {name}(&self) -> Option<{kind}> {{");
        line!(
            out,
            "        self.{}({})",
            getter(property.kind),
            shout(&property.name)
        );
        line!(out, "    }}");
    }
    line!(out, "}}");
    line!(out);
    builder(&mut out, all);
    out
}

fn builder(out: &mut String, all: &[Argument]) {
    line!(
        out,
        "/// The values of a property list, to be set one by one; `None` is not set."
    );
    line!(out, "#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]");
    line!(out, "pub struct PropertiesBuilder<'a> {{");
    for property in all {
        line!(out, "    /// `{}`", property.name);
        line!(
            out,
            "    pub {}: Option<{}>,",
            snake(&property.name),
            rust_type(property.kind)
        );
    }
    line!(out, "}}");
    line!(out);
    line!(
        out,
        "impl<'a> From<Properties<'a>> for PropertiesBuilder<'a> {{"
    );
    line!(out, "    fn from(list: Properties<'a>) -> Self {{");
    line!(out, "        Self {{");
    for property in all {
        line!(out, "            {0}: list.{0}(),", snake(&property.name));
    }
    line!(out, "        }}");
    line!(out, "    }}");
    line!(out, "}}");
    line!(out);
    line!(out, "impl PropertiesBuilder<'_> {{");
    line!(out, "    /// The list as bytes, flag word first.");
    line!(out, "    pub fn build(&self) -> Vec<u8> {{");
    line!(out, "        let mut out = Vec::new();");
    line!(out, "        self.write(&mut out);");
    line!(out, "        out");
    line!(out, "    }}");
    line!(out);
    line!(out, "    /// Appends the list, flag word first.");
    line!(out, "    pub fn write(&self, out: &mut Vec<u8>) {{");
    line!(out, "        codec::put_short(out, self.flags());");
    for property in all {
        line!(
            out,
            "        if let Some(value) = self.{} {{",
            snake(&property.name)
        );
        line!(out, "            {};", put_value(property.kind, "value"));
        line!(out, "        }}");
    }
    line!(out, "    }}");
    line!(out);
    line!(out, "    fn flags(&self) -> u16 {{");
    line!(out, "        let mut flags = 0;");
    for property in all {
        line!(
            out,
            "        if self.{}.is_some() {{",
            snake(&property.name)
        );
        line!(out, "            flags |= {};", shout(&property.name));
        line!(out, "        }}");
    }
    line!(out, "        flags");
    line!(out, "    }}");
    line!(out, "}}");
}

/// The arguments that become fields.
fn fields(method: &Method) -> impl Iterator<Item = &Argument> {
    method
        .arguments
        .iter()
        .filter(|argument| !argument.is_reserved())
}

/// How many arguments at the front belong together: neighbouring bits do, up to eight.
fn run_len(arguments: &[Argument]) -> usize {
    let bits = arguments
        .iter()
        .take_while(|argument| argument.kind == Kind::Bit)
        .count();
    bits.clamp(1, 8)
}

/// Octets of the arguments, without the contents of strings and tables.
fn fixed_len(method: &Method) -> usize {
    let mut total = 0;
    let mut rest = method.arguments.as_slice();
    while let Some(first) = rest.first() {
        total += match first.kind {
            Kind::Bit | Kind::Octet | Kind::ShortStr => 1,
            Kind::Short => 2,
            Kind::Long | Kind::LongStr | Kind::Table => 4,
            Kind::LongLong | Kind::Timestamp => 8,
        };
        rest = &rest[run_len(rest)..];
    }
    total
}

/// The length of what an argument's value holds, where that varies.
fn variable_len(argument: &Argument) -> Option<String> {
    let name = snake(&argument.name);
    match argument.kind {
        Kind::ShortStr | Kind::LongStr => Some(format!("self.{name}.len()")),
        Kind::Table => Some(format!("self.{name}.as_bytes().len()")),
        _ => None,
    }
}

fn put(argument: &Argument) -> String {
    let field = format!("self.{}", snake(&argument.name));
    match (argument.is_reserved(), argument.kind) {
        (false, kind) => put_value(kind, &field),
        (true, Kind::ShortStr | Kind::Octet) => "out.push(0)".to_string(),
        (true, Kind::LongStr | Kind::Table) => put_value(Kind::Long, "0"),
        (true, kind) => put_value(kind, "0"),
    }
}

fn put_value(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Bit => unreachable!("bits are written in runs"),
        Kind::Octet => format!("out.push({value})"),
        Kind::Short => format!("codec::put_short(out, {value})"),
        Kind::Long => format!("codec::put_long(out, {value})"),
        Kind::LongLong | Kind::Timestamp => format!("codec::put_long_long(out, {value})"),
        Kind::ShortStr => format!("codec::put_short_str(out, {value})"),
        Kind::LongStr => format!("codec::put_long_str(out, {value})"),
        Kind::Table => format!("codec::put_long_str(out, {value}.as_bytes())"),
    }
}

fn reader_fn(kind: Kind) -> &'static str {
    match kind {
        Kind::Bit | Kind::Octet => "octet",
        Kind::Short => "short",
        Kind::Long => "long",
        Kind::LongLong | Kind::Timestamp => "long_long",
        Kind::ShortStr => "short_str",
        Kind::LongStr => "long_str",
        Kind::Table => "table",
    }
}

fn getter(kind: Kind) -> &'static str {
    match kind {
        Kind::Octet => "octet",
        Kind::Timestamp => "timestamp_value",
        Kind::ShortStr => "short_str",
        Kind::Table => "table",
        other => unreachable!("no property is a {other:?}"),
    }
}

fn rust_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Bit => "bool",
        Kind::Octet => "u8",
        Kind::Short => "u16",
        Kind::Long => "u32",
        Kind::LongLong | Kind::Timestamp => "u64",
        Kind::ShortStr => "ShortStr<'a>",
        Kind::LongStr => "&'a [u8]",
        Kind::Table => "Table<'a>",
    }
}

fn lifetime(method: &Method) -> &'static str {
    if fields(method).any(|argument| rust_type(argument.kind).contains("'a")) {
        "<'a>"
    } else {
        ""
    }
}

fn variant(class: &Class, method: &Method) -> String {
    camel(&class.name) + &camel(&method.name)
}

fn path_type(class: &Class, method: &Method) -> String {
    format!(
        "{}::{}{}",
        class.name,
        camel(&method.name),
        lifetime(method)
    )
}

fn camel(name: &str) -> String {
    let capitalized = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    name.split('-').filter_map(capitalized).collect()
}

fn snake(name: &str) -> String {
    if name == "type" {
        "type_".to_string()
    } else {
        name.replace('-', "_")
    }
}

fn shout(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}
