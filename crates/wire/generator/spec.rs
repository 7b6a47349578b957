//! The input of the generator: the table of classes, methods, arguments and properties.

/// Where the table is, from the crate's root.
pub const PATH: &str = "spec/amqp-0-9-1.txt";

/// A class of methods.
pub struct Class {
    pub id: u16,
    pub name: String,
    pub methods: Vec<Method>,
    pub properties: Vec<Argument>,
}

/// A method of a class.
pub struct Method {
    pub id: u16,
    pub name: String,
    pub sender: Sender,
    pub content: bool,
    pub arguments: Vec<Argument>,
}

/// Who may send a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
    Both,
}

/// An argument or a property.
pub struct Argument {
    pub kind: Kind,
    /// Empty if the argument is reserved.
    pub name: String,
}

/// The type of an argument or a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bit,
    Octet,
    Short,
    Long,
    LongLong,
    Timestamp,
    ShortStr,
    LongStr,
    Table,
}

impl Argument {
    pub fn is_reserved(&self) -> bool {
        self.name.is_empty()
    }
}

/// Reads the table.
///
/// # Panics
/// With the line in question, if that is not as the head of the table says.
pub fn parse(text: &str) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (head, arguments) = line.split_once(':').unwrap_or((line, ""));
        let words: Vec<&str> = head.split_whitespace().collect();
        match (words.as_slice(), classes.last_mut()) {
            (["class", id, name], _) => classes.push(Class {
                id: number(id, line),
                name: name.to_string(),
                methods: Vec::new(),
                properties: Vec::new(),
            }),
            (["method", id, name, sender, rest @ ..], Some(class)) => class.methods.push(Method {
                id: number(id, line),
                name: name.to_string(),
                sender: sender_of(sender, line),
                content: match rest {
                    [] => false,
                    ["content"] => true,
                    _ => panic!("what is {rest:?}? {line}"),
                },
                arguments: arguments
                    .split(',')
                    .filter(|part| !part.trim().is_empty())
                    .map(|part| argument(part, line))
                    .collect(),
            }),
            (["property", kind, name], Some(class)) => {
                let kind = kind_of(kind, line);
                class.properties.push(Argument {
                    kind,
                    name: name.to_string(),
                });
            }
            _ => panic!("not understood: {line}"),
        }
    }
    classes
}

fn number(word: &str, line: &str) -> u16 {
    word.parse()
        .unwrap_or_else(|_| panic!("{word} is no number: {line}"))
}

fn sender_of(word: &str, line: &str) -> Sender {
    match word {
        "client" => Sender::Client,
        "server" => Sender::Server,
        "both" => Sender::Both,
        _ => panic!("who is {word}? {line}"),
    }
}

fn argument(part: &str, line: &str) -> Argument {
    let words: Vec<&str> = part.split_whitespace().collect();
    let [kind, name] = words.as_slice() else {
        panic!("not a type and a name: {part}: {line}");
    };
    let name = if *name == "-" { "" } else { name };
    Argument {
        kind: kind_of(kind, line),
        name: name.to_string(),
    }
}

fn kind_of(word: &str, line: &str) -> Kind {
    match word {
        "bit" => Kind::Bit,
        "octet" => Kind::Octet,
        "short" => Kind::Short,
        "long" => Kind::Long,
        "longlong" => Kind::LongLong,
        "timestamp" => Kind::Timestamp,
        "shortstr" => Kind::ShortStr,
        "longstr" => Kind::LongStr,
        "table" => Kind::Table,
        _ => panic!("unknown type {word}: {line}"),
    }
}
