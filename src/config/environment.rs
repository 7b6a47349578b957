//! The process's environment and the `.env` file beside it, as one map. Nothing else reads variables.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::ConfigError;

/// Variables by name, each with the place where it was set.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, Variable>,
}

#[derive(Clone, Debug)]
struct Variable {
    value: String,
    /// Set in `.env` rather than in the process's environment.
    from_file: bool,
}

impl Environment {
    /// Reads `.env` in the working directory, if there is one, and the process's environment, which wins.
    ///
    /// # Errors
    /// A `.env` that is there and cannot be read or has a line that is no assignment.
    pub fn read() -> Result<Self, ConfigError> {
        let mut environment = Self::default();
        let path = Path::new(".env");
        if path.is_file() {
            let text = fs::read_to_string(path)
                .map_err(|error| ConfigError::new(".env", format!("cannot be read: {error}")))?;
            environment.add_dotenv(&text)?;
        }
        // Names and values that are not UTF-8 cannot be ours.
        let own = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        environment.extend(own);
        Ok(environment)
    }

    /// An environment of the given variables only.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut environment = Self::default();
        environment.extend(
            variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        environment
    }

    /// A variable's value; an empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(|variable| variable.value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All variables that start with `prefix`, in the order of their names.
    pub(super) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.variables
            .range(prefix.to_owned()..)
            .take_while(move |(name, _)| name.starts_with(prefix))
            .map(|(name, variable)| (name.as_str(), variable.value.as_str()))
    }

    /// How an error names the variable: with `.env` when it was set there.
    pub(super) fn describe(&self, name: &str) -> String {
        match self.variables.get(name) {
            Some(variable) if variable.from_file => format!(".env: {name}"),
            _ => format!("environment variable {name}"),
        }
    }

    fn extend(&mut self, variables: impl Iterator<Item = (String, String)>) {
        for (name, value) in variables {
            self.variables.insert(
                name,
                Variable {
                    value,
                    from_file: false,
                },
            );
        }
    }

    fn add_dotenv(&mut self, text: &str) -> Result<(), ConfigError> {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let Some((name, value)) = line.split_once('=') else {
                return Err(ConfigError::new(
                    format!(".env:{}", index + 1),
                    "is not NAME=value".into(),
                ));
            };
            let variable = Variable {
                value: unquote(value.trim()),
                from_file: true,
            };
            self.variables.insert(name.trim().to_owned(), variable);
        }
        Ok(())
    }
}

/// Takes one pair of quotes off; an unquoted value ends at ` #`.
fn unquote(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some((inner, _)) = rest.split_once(quote)
        {
            return inner.to_owned();
        }
    }
    value
        .split_once(" #")
        .map_or(value, |(value, _)| value.trim_end())
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_lines_are_read_and_the_real_environment_wins() {
        let mut environment = Environment::default();
        let text =
            "# comment\n\nexport A=1\nB = \"two # words\" # why\nC='x'\nD=plain # note\nE=\n";
        environment.add_dotenv(text).unwrap();
        environment.extend([("C".to_owned(), "real".to_owned())].into_iter());
        let got = ["A", "B", "C", "D", "E"].map(|name| environment.get(name));
        assert_eq!(
            got,
            [
                Some("1"),
                Some("two # words"),
                Some("real"),
                Some("plain"),
                None
            ]
        );
        assert_eq!(environment.describe("A"), ".env: A");
        assert_eq!(environment.describe("C"), "environment variable C");
    }

    #[test]
    fn a_dotenv_line_that_is_no_assignment_is_named() {
        let error = Environment::default().add_dotenv("A=1\nwhat").unwrap_err();
        assert_eq!(error.to_string(), ".env:2: is not NAME=value");
    }
}
