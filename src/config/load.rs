//! Merging the sources into one [`Config`]: defaults ← file ← environment ← flags.
//!
//! Every source is cut into single values by full key (`section.key`), and each value is tried on its
//! own against the defaults, so that an error always names the source that is to blame. The list of keys
//! and their types comes from serialising the defaults: there is no second list to forget.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, Environment};

/// Where a configuration file is looked for when none is named; the first that exists is read.
const DEFAULT_FILES: [&str; 2] = ["backbone.toml", "config/backbone.toml"];

/// Variables without a section: of the loader itself and of the command line's HTTP client.
const PLAIN_VARIABLES: [&str; 5] = [
    "BACKBONE_CONFIG",
    "BACKBONE_DATA_DIR",
    "BACKBONE_API",
    "BACKBONE_CLIENT_ID",
    "BACKBONE_CLIENT_SECRET",
];

/// What Kubernetes puts into the environment for a service named `backbone`: not meant for us.
const FOREIGN_PREFIXES: [&str; 2] = ["BACKBONE_SERVICE_", "BACKBONE_PORT"];

/// The seed's variables and the keys that they set; an empty value counts as not set.
const SEED_VARIABLES: [(&str, &str); 3] = [
    ("DATA_DIR", "data_dir"),
    ("SOAR_TOKEN_LIFETIME", "token.lifetime_hours"),
    ("SOAR_TOKEN_SECRET", "token.secret"),
];

/// A configuration that cannot be used; its text is `source: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    /// The file and key, the variable or the flag to blame.
    pub origin: String,
    /// What is wrong and, where it can be said, what is right.
    pub problem: String,
}

impl ConfigError {
    pub(super) fn new(origin: impl Into<String>, problem: String) -> Self {
        Self {
            origin: origin.into(),
            problem,
        }
    }
}

/// What the command line says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--set key=value`, in their order.
    pub set: Vec<String>,
}

/// Reads and merges all sources and checks the result.
///
/// # Errors
/// The first source that cannot be read, names an unknown key, or holds a value that does not fit.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Config, ConfigError> {
    let mut merge = Merge::new();
    if let Some(path) = file_path(flags, environment)? {
        merge.file(&path)?;
    }
    merge.environment(environment)?;
    merge.flags(flags)?;
    merge.finish()
}

/// The file to read: named by flag or variable, or the first default that exists.
fn file_path(flags: &Flags, environment: &Environment) -> Result<Option<PathBuf>, ConfigError> {
    let named = flags
        .config
        .clone()
        .map(|path| (path, "--config".to_owned()))
        .or_else(|| {
            Some((
                environment.get("BACKBONE_CONFIG")?.into(),
                environment.describe("BACKBONE_CONFIG"),
            ))
        });
    if let Some((path, origin)) = named {
        return match path.exists() {
            true => Ok(Some(path)),
            false => Err(ConfigError::new(
                origin,
                format!("there is no file {}", path.display()),
            )),
        };
    }
    Ok(DEFAULT_FILES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file()))
}

/// The merge in progress: the value of each key and where it came from.
struct Merge {
    /// Defaults by full key: the list of known keys and their types.
    defaults: BTreeMap<String, Value>,
    values: BTreeMap<String, Value>,
    origins: BTreeMap<String, String>,
}

impl Merge {
    fn new() -> Self {
        let defaults = Table::try_from(Config::default()).expect("the defaults are plain values");
        Self {
            defaults: flatten(defaults),
            values: BTreeMap::new(),
            origins: BTreeMap::new(),
        }
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            ConfigError::new(name.to_string(), format!("cannot be read: {error}"))
        })?;
        // The error's own text would quote the line, which may hold a secret.
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].lines().count().max(1));
            ConfigError::new(format!("{name}: line {line}"), error.message().to_owned())
        })?;
        for (key, value) in flatten(table) {
            self.put(&key, value, format!("{name}: {key}"))?;
        }
        Ok(())
    }

    fn environment(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        for (name, key) in SEED_VARIABLES {
            if let Some(text) = environment.get(name) {
                self.put_text(key, text, environment.describe(name))?;
            }
        }
        for (name, text) in environment.with_prefix("BACKBONE_") {
            let origin = environment.describe(name);
            if name == "BACKBONE_DATA_DIR" && !text.is_empty() {
                self.put_text("data_dir", text, origin)?;
            } else if name.contains("__") {
                self.variable(environment, name, text, origin)?;
            } else if !PLAIN_VARIABLES.contains(&name)
                && !FOREIGN_PREFIXES.iter().any(|p| name.starts_with(p))
            {
                return Err(ConfigError::new(
                    origin,
                    unknown(name, self.variable_names().iter().map(String::as_str)),
                ));
            }
        }
        Ok(())
    }

    /// One `BACKBONE_SECTION__KEY`, or the same with `_FILE`.
    fn variable(
        &mut self,
        environment: &Environment,
        name: &str,
        text: &str,
        origin: String,
    ) -> Result<(), ConfigError> {
        let key = key_of_variable(name);
        if self.defaults.contains_key(&key) {
            return self.put_text(&key, text, origin);
        }
        let Some(plain) = name
            .strip_suffix("_FILE")
            .filter(|plain| self.defaults.contains_key(&key_of_variable(plain)))
        else {
            return Err(ConfigError::new(
                origin,
                unknown(name, self.variable_names().iter().map(String::as_str)),
            ));
        };
        if environment.get(plain).is_some() {
            return Err(ConfigError::new(
                origin,
                format!("{plain} is set too; set one of them"),
            ));
        }
        let content = fs::read_to_string(text).map_err(|error| {
            ConfigError::new(origin.clone(), format!("{text} cannot be read: {error}"))
        })?;
        let content = content.strip_suffix('\n').map_or(content.as_str(), |line| {
            line.strip_suffix('\r').unwrap_or(line)
        });
        self.put_text(&key_of_variable(plain), content, origin)
    }

    fn flags(&mut self, flags: &Flags) -> Result<(), ConfigError> {
        for assignment in &flags.set {
            let Some((key, text)) = assignment.split_once('=') else {
                return Err(ConfigError::new(
                    "--set",
                    format!("`{assignment}` is not key=value"),
                ));
            };
            self.put_text(key.trim(), text, format!("--set {}", key.trim()))?;
        }
        match &flags.data_dir {
            Some(path) => self.put_text("data_dir", &path.to_string_lossy(), "--data-dir".into()),
            None => Ok(()),
        }
    }

    /// A value that came as text: its type is the type of the key's default.
    fn put_text(&mut self, key: &str, text: &str, origin: String) -> Result<(), ConfigError> {
        let wrong = |want: &str| ConfigError::new(origin.clone(), format!("must be {want}"));
        let value = match self.defaults.get(key) {
            Some(Value::Integer(_)) => {
                Value::Integer(text.trim().parse().map_err(|_| wrong("a whole number"))?)
            }
            Some(Value::Float(_)) => {
                Value::Float(text.trim().parse().map_err(|_| wrong("a number"))?)
            }
            Some(Value::Boolean(_)) => {
                Value::Boolean(text.trim().parse().map_err(|_| wrong("true or false"))?)
            }
            Some(Value::Array(_)) => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            }
            // An unknown key is refused by `put`, whatever its type.
            _ => Value::String(text.to_owned()),
        };
        self.put(key, value, origin)
    }

    fn put(&mut self, key: &str, value: Value, origin: String) -> Result<(), ConfigError> {
        if !self.defaults.contains_key(key) {
            let section = format!("{key}.");
            let problem = match self
                .defaults
                .keys()
                .any(|known| known.starts_with(&section))
            {
                true => format!("`{key}` is a section and has no value of its own"),
                false => unknown(key, self.defaults.keys().map(String::as_str)),
            };
            return Err(ConfigError::new(origin, problem));
        }
        let alone = BTreeMap::from([(key.to_owned(), value.clone())]);
        if let Err(error) = Config::deserialize_table(unflatten(&alone)) {
            return Err(ConfigError::new(origin, error));
        }
        self.values.insert(key.to_owned(), value);
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    fn finish(self) -> Result<Config, ConfigError> {
        let config = Config::deserialize_table(unflatten(&self.values))
            .map_err(|error| ConfigError::new("configuration", error))?;
        config.validate().map_err(|(key, problem)| {
            let origin = self
                .origins
                .get(key)
                .cloned()
                .unwrap_or_else(|| key.to_owned());
            ConfigError::new(origin, problem)
        })?;
        Ok(config)
    }

    fn variable_names(&self) -> Vec<String> {
        let keys = self.defaults.keys().filter(|key| key.contains('.'));
        let mut names: Vec<String> = keys
            .map(|key| format!("BACKBONE_{}", key.replace('.', "__").to_uppercase()))
            .collect();
        names.extend(PLAIN_VARIABLES.map(str::to_owned));
        names
    }
}

impl Config {
    /// The error's own first line, without the excerpt that a value without a text does not have.
    fn deserialize_table(table: Table) -> Result<Self, String> {
        table
            .try_into()
            .map_err(|error: toml::de::Error| error.message().trim().to_owned())
    }
}

/// `BACKBONE_AMQP__BIND` to `amqp.bind`.
fn key_of_variable(name: &str) -> String {
    name.trim_start_matches("BACKBONE_")
        .replacen("__", ".", 1)
        .to_lowercase()
}

/// Values by full key. Below a section everything is a value, also a table, which its type then refuses.
fn flatten(table: Table) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => {
                flat.extend(
                    section
                        .into_iter()
                        .map(|(key, value)| (format!("{name}.{key}"), value)),
                );
            }
            value => {
                flat.insert(name, value);
            }
        }
    }
    flat
}

fn unflatten(flat: &BTreeMap<String, Value>) -> Table {
    let mut table = Table::new();
    for (key, value) in flat {
        match key.split_once('.') {
            None => {
                table.insert(key.clone(), value.clone());
            }
            Some((section, name)) => {
                let section = table
                    .entry(section)
                    .or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(section) = section {
                    section.insert(name.to_owned(), value.clone());
                }
            }
        }
    }
    table
}

/// Says that `name` is unknown and which known name is nearest, if one is near at all.
fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(name, candidate),
                candidate,
            )
        })
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, candidate)) if likeness > 0.4 => {
            format!("`{name}` is unknown; did you mean `{candidate}`?")
        }
        _ => format!("`{name}` is unknown; config/backbone.toml lists all keys"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The packaged file, as the repository has it.
    const PACKAGED: &str = include_str!("../../config/backbone.toml");

    fn from_file(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.toml");
        fs::write(&path, text).unwrap();
        let flags = Flags {
            config: Some(path),
            ..Flags::default()
        };
        load(&flags, &Environment::default()).map_err(|mut error| {
            error.origin = error
                .origin
                .replace(&format!("{}/", dir.path().display()), "");
            error
        })
    }

    fn from_env(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let flags = Flags {
            config: Some(empty_file()),
            ..Flags::default()
        };
        load(&flags, &Environment::of(variables.iter().copied()))
    }

    /// A file without keys, so that tests do not read the one in the working directory.
    fn empty_file() -> PathBuf {
        PathBuf::from("/dev/null")
    }

    /// The packaged file with the `#` taken off every line that holds a key.
    fn uncommented() -> String {
        let is_key = |line: &str| {
            line.split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        };
        let open = |line: &str| match line.strip_prefix('#') {
            Some(rest) if is_key(rest) => rest.to_owned(),
            _ => line.to_owned(),
        };
        PACKAGED.lines().map(open).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn packaged_file_holds_nothing_but_comments_and_sections() {
        let table: Table = PACKAGED.parse().unwrap();
        assert!(flatten(table).is_empty());
        assert_eq!(from_file(PACKAGED).unwrap(), Config::default());
    }

    #[test]
    fn packaged_file_uncommented_equals_the_defaults_and_names_every_key() {
        let text = uncommented();
        assert_eq!(from_file(&text).unwrap(), Config::default());
        let named = flatten(text.parse().unwrap());
        let known: Vec<String> = Merge::new().defaults.into_keys().collect();
        assert_eq!(named.into_keys().collect::<Vec<_>>(), known);
    }

    #[test]
    fn later_sources_win() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.toml");
        fs::write(
            &path,
            "data_dir = \"file\"\n[amqp]\nheartbeat_s = 1\nchannel_max = 1\n[admin]\nid = \"file\"",
        )
        .unwrap();
        let environment = Environment::of([
            ("BACKBONE_CONFIG", path.to_str().unwrap()),
            ("BACKBONE_AMQP__CHANNEL_MAX", "2"),
            ("BACKBONE_ADMIN__ID", "env"),
            ("DATA_DIR", "seed"),
            ("BACKBONE_DATA_DIR", "env"),
        ]);
        let mut flags = Flags {
            set: vec!["admin.id=flag".into()],
            ..Flags::default()
        };
        let config = load(&flags, &environment).unwrap();
        assert_eq!(
            (
                config.amqp.heartbeat_s,
                config.amqp.channel_max,
                config.admin.id.as_str()
            ),
            (1, 2, "flag")
        );
        assert_eq!(config.data_dir, PathBuf::from("env"));
        flags.data_dir = Some("flag".into());
        assert_eq!(
            load(&flags, &environment).unwrap().data_dir,
            PathBuf::from("flag")
        );
    }

    #[test]
    fn environment_values_take_the_type_of_their_key() {
        let config = from_env(&[
            ("BACKBONE_HTTP__BIND", "127.0.0.1:1, [::1]:2"),
            ("BACKBONE_METRICS__PUBLIC", "true"),
            ("BACKBONE_LOG__FORMAT", "json"),
            ("BACKBONE_LIMITS__MAX_BODY_BYTES", "1024"),
            ("SOAR_TOKEN_LIFETIME", "0.5"),
            ("SOAR_TOKEN_SECRET", "key"),
            ("DATA_DIR", "/d"),
            ("BACKBONE_SERVICE_HOST", "10.0.0.1"),
        ])
        .unwrap();
        assert_eq!(
            config.http.bind,
            ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]
        );
        assert!(config.metrics.public);
        assert_eq!(config.limits.max_body_bytes, 1024);
        assert_eq!(config.token.lifetime_hours, 0.5);
        assert_eq!(config.token.secret.expose(), "key");
        assert_eq!(config.data_dir, PathBuf::from("/d"));
    }

    #[test]
    fn a_file_variable_reads_the_value_and_strips_one_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "s3cret \n").unwrap();
        let path = path.to_str().unwrap();
        let config = from_env(&[("BACKBONE_ADMIN__SECRET_FILE", path)]).unwrap();
        assert_eq!(config.admin.secret.expose(), "s3cret ");
        let error = from_env(&[
            ("BACKBONE_ADMIN__SECRET_FILE", path),
            ("BACKBONE_ADMIN__SECRET", "x"),
        ])
        .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("BACKBONE_ADMIN__SECRET is set too"),
            "{error}"
        );
        let error = from_env(&[("BACKBONE_ADMIN__SECRET_FILE", "/nowhere/at/all")]).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }

    #[test]
    fn errors_name_the_source_and_the_nearest_key() {
        let says = |error: Result<Config, ConfigError>, parts: [&str; 2]| {
            let text = error.unwrap_err().to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        };
        says(
            from_file("[amqp]\nhartbeat_s = 1"),
            [
                "b.toml: amqp.hartbeat_s: ",
                "did you mean `amqp.heartbeat_s`?",
            ],
        );
        says(
            from_file("[ampq]\nbind = []"),
            ["b.toml: ampq.bind: ", "did you mean `amqp.bind`?"],
        );
        says(from_file("amqp = 1"), ["b.toml: amqp: ", "is a section"]);
        says(
            from_file("[amqp]\nchannel_max = 70000"),
            ["b.toml: amqp.channel_max: ", "70000"],
        );
        says(
            from_file("[amqp]\nbind = [\"here\"]"),
            ["b.toml: amqp.bind: ", "socket address"],
        );
        says(
            from_file("[amqp]\nframe_max_bytes = 1"),
            ["b.toml: amqp.frame_max_bytes: ", "at least 4096"],
        );
        says(
            from_file("[amqp]\nbind = [\n[admin"),
            ["b.toml: line 3: ", ""],
        );
        says(
            from_env(&[("BACKBONE_HTTP_BIND", "x")]),
            ["variable BACKBONE_HTTP_BIND: ", "`BACKBONE_HTTP__BIND`"],
        );
        says(
            from_env(&[("BACKBONE_HTTP__BNID", "x")]),
            ["variable BACKBONE_HTTP__BNID: ", "`BACKBONE_HTTP__BIND`"],
        );
        says(
            from_env(&[("BACKBONE_LIMITS__CONNECTIONS", "many")]),
            ["LIMITS__CONNECTIONS: ", "a whole number"],
        );
        let environment = Environment::of([("BACKBONE_CONFIG", "/nowhere")]);
        says(
            load(&Flags::default(), &environment),
            ["BACKBONE_CONFIG: ", "no file /nowhere"],
        );
        let flags = Flags {
            set: vec!["log.levle=info".into()],
            config: Some(empty_file()),
            ..Flags::default()
        };
        says(
            load(&flags, &Environment::default()),
            ["--set log.levle: ", "`log.level`"],
        );
    }
}
