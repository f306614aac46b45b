//! Layers of configuration as plain tables: which keys there are, what overrides what, and where each value came
//! from. The lowest layer is the list of keys and of their kinds; nothing here knows what a key means.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Error, Origin, Result, read};

const PREFIX: &str = "COGVIDEOX_";
const FILE_VARIABLE: &str = "COGVIDEOX_CONFIG";
/// The build's own (server/device): who built here still has them.
const BUILD_VARIABLES: [&str; 3] =
    ["COGVIDEOX_CUDA_ARCHS", "COGVIDEOX_CUDNN_LIB_DIR", "COGVIDEOX_KERNELS_DIR"];

/// The variables of an environment that are ours.
pub(super) struct Environment {
    /// The configuration file that the environment names.
    pub(super) file: Option<PathBuf>,
    /// Name and value, by name.
    variables: BTreeMap<String, String>,
}

impl Environment {
    pub(super) fn of(all: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self> {
        let mut environment = Self { file: None, variables: BTreeMap::new() };
        for (name, value) in all {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            if BUILD_VARIABLES.contains(&name) {
                continue;
            }
            if name == FILE_VARIABLE {
                environment.file = Some(value.into());
                continue;
            }
            let name = name.to_owned();
            match value.into_string() {
                Ok(value) => environment.variables.insert(name, value),
                Err(_) => return Err(Error::NotUnicode { name }),
            };
        }
        Ok(environment)
    }
}

/// The layers so far, merged.
pub(super) struct Layers {
    /// The lowest layer: every key, with a value of its kind.
    defaults: Table,
    merged: Table,
    /// Keys that a later layer set.
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    pub(super) fn new(defaults: &str) -> Result<Self> {
        let defaults = parse(defaults, &Origin::Defaults)?;
        Ok(Self { merged: defaults.clone(), defaults, origins: BTreeMap::new() })
    }

    pub(super) fn add_file(&mut self, path: &Path) -> Result<()> {
        let origin = Origin::File(path.to_owned());
        let table = parse(&read(path)?, &origin)?;
        self.add_table(table, "", &origin)
    }

    fn add_table(&mut self, table: Table, path: &str, origin: &Origin) -> Result<()> {
        if !path.is_empty() && self.is_open(path) {
            return self.add_entries(table, path, origin);
        }
        for (name, value) in table {
            let key = if path.is_empty() { name } else { format!("{path}.{name}") };
            match (self.default_of(&key), value) {
                (None, _) => return Err(Error::UnknownKey { key, origin: origin.clone() }),
                (Some(Value::Table(_)), Value::Table(section)) => self.add_table(section, &key, origin)?,
                (Some(Value::Array(_)), Value::String(text)) => self.set(&key, list(&text), origin),
                (Some(default), value) if default.same_type(&value) => self.set(&key, value, origin),
                (Some(default), value) => {
                    let reason = format!("expected {}, found {}", kind(default), kind(&value));
                    return Err(Error::Invalid { key, origin: origin.clone(), reason });
                }
            }
        }
        Ok(())
    }

    /// Whether the operator names the section's entries: then the defaults have none. Each is a section of words.
    fn is_open(&self, section: &str) -> bool {
        self.defaults.get(section).and_then(Value::as_table).is_some_and(Table::is_empty)
    }

    fn add_entries(&mut self, entries: Table, section: &str, origin: &Origin) -> Result<()> {
        for (name, entry) in entries {
            let key = format!("{section}.{name}");
            let Value::Table(fields) = entry else {
                let reason = format!("expected a section, found {}", kind(&entry));
                return Err(Error::Invalid { key, origin: origin.clone(), reason });
            };
            for (field, value) in &fields {
                let key = format!("{key}.{field}");
                if !value.is_str() {
                    let reason = format!("expected a string, found {}", kind(value));
                    return Err(Error::Invalid { key, origin: origin.clone(), reason });
                }
                self.origins.insert(key, origin.clone());
            }
            self.origins.insert(key, origin.clone());
            if let Some(Value::Table(section)) = self.merged.get_mut(section) {
                let entry = section.entry(name).or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(entry) = entry {
                    entry.extend(fields);
                }
            }
        }
        Ok(())
    }

    pub(super) fn add_environment(&mut self, environment: &Environment) -> Result<()> {
        for (name, value) in &environment.variables {
            let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
            self.add_text(key, value, Origin::Variable(name.clone()))?;
        }
        Ok(())
    }

    pub(super) fn add_overrides(&mut self, overrides: &[(String, String)]) -> Result<()> {
        for (key, value) in overrides {
            self.add_text(key.clone(), value, Origin::CommandLine)?;
        }
        Ok(())
    }

    /// A value given as text is read as the kind that its key has.
    fn add_text(&mut self, key: String, text: &str, origin: Origin) -> Result<()> {
        // The names of entries may have dots in them.
        if let Some((section, rest)) = key.split_once('.')
            && self.is_open(section)
            && let Some((name, field)) = rest.rsplit_once('.')
        {
            let fields = Table::from_iter([(field.to_owned(), Value::String(text.to_owned()))]);
            let entries = Table::from_iter([(name.to_owned(), Value::Table(fields))]);
            return self.add_entries(entries, section, &origin);
        }
        let Some(default) = self.default_of(&key) else { return Err(Error::UnknownKey { key, origin }) };
        let value = match default {
            Value::String(_) => Some(Value::String(text.to_owned())),
            Value::Integer(_) => text.parse().ok().map(Value::Integer),
            Value::Float(_) => text.parse().ok().map(Value::Float),
            Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
            Value::Array(_) => Some(list(text)),
            Value::Table(_) | Value::Datetime(_) => None,
        };
        let Some(value) = value else {
            let reason = format!("expected {}, found {text:?}", kind(default));
            return Err(Error::Invalid { key, origin, reason });
        };
        self.set(&key, value, &origin);
        Ok(())
    }

    fn default_of(&self, key: &str) -> Option<&Value> {
        let (sections, name) = split(key);
        let mut table = &self.defaults;
        for section in sections {
            table = table.get(section)?.as_table()?;
        }
        table.get(name)
    }

    /// `key` is one of the defaults', so every section on the way to it exists.
    fn set(&mut self, key: &str, value: Value, origin: &Origin) {
        let (sections, name) = split(key);
        let mut table = &mut self.merged;
        for section in sections {
            match table.get_mut(section) {
                Some(Value::Table(section)) => table = section,
                _ => return,
            }
        }
        table.insert(name.to_owned(), value);
        self.origins.insert(key.to_owned(), origin.clone());
    }

    /// The merged layers as a typed value.
    pub(super) fn deserialize<T: DeserializeOwned>(&self) -> Result<T> {
        serde_path_to_error::deserialize(self.merged.clone()).map_err(|error| {
            let key = error.path().to_string();
            self.invalid(&key, error.into_inner().message().to_owned())
        })
    }

    /// The error for a value, naming where it came from.
    pub(super) fn invalid(&self, key: &str, reason: String) -> Error {
        let origin = self.origins.get(key).cloned().unwrap_or(Origin::Defaults);
        Error::Invalid { key: key.to_owned(), origin, reason }
    }
}

/// The sections on the way to a dotted key, and the last name.
fn split(key: &str) -> (impl Iterator<Item = &str>, &str) {
    let (sections, name) =
        key.rsplit_once('.').map_or((None, key), |(sections, name)| (Some(sections), name));
    (sections.into_iter().flat_map(|sections| sections.split('.')), name)
}

fn parse(text: &str, origin: &Origin) -> Result<Table> {
    text.parse().map_err(|error: toml::de::Error| Error::Syntax {
        origin: origin.clone(),
        line: 1 + text[..error.span().map_or(0, |span| span.start)].matches('\n').count(),
        message: error.message().replace('\n', ", "),
    })
}

/// A list as TOML has it, or its entries with commas between them, of which one alone is a list too: all lists here are
/// of words.
fn list(text: &str) -> Value {
    let as_toml = format!("list = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("list"));
    if let Some(list @ Value::Array(_)) = as_toml {
        return list;
    }
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    Value::Array(entries.map(|entry| Value::String(entry.to_owned())).collect())
}

/// What a value is called in messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a number with a point",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date or time",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}
