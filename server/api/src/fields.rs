//! A request's fields, however they came: as JSON, urlencoded or multipart.
//!
//! Forms carry text only, so a form's number is text that reads as a number, and a form's object is bracketed
//! names (`metadata[a]=b`) or one field of JSON text; in JSON a number must be a number. Knows no field's
//! meaning: `create` takes the fields it knows, each once, and whatever is left is unknown.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::error::{Code, Error, Result};

/// One field's value as it was sent.
#[derive(Debug)]
pub(crate) enum Field {
    Json(Value),
    Text(String),
    /// `name[key]=value` fields of a form, gathered.
    Group(BTreeMap<String, String>),
    /// An uploaded file's content; none where the endpoint takes no files.
    File(Vec<u8>),
}

impl Field {
    /// What the field is, for a message to its sender.
    pub(crate) fn found(&self) -> String {
        match self {
            Self::Json(Value::Null) => "null".to_owned(),
            Self::Json(Value::Bool(value)) => format!("the boolean {value}"),
            Self::Json(Value::Number(number)) => format!("the number {number}"),
            Self::Json(Value::String(text)) => format!("the string {}", quoted(text)),
            Self::Json(Value::Array(_)) => "an array".to_owned(),
            Self::Json(Value::Object(_)) | Self::Group(_) => "an object".to_owned(),
            Self::Text(text) => format!("the text {}", quoted(text)),
            Self::File(_) => "a file".to_owned(),
        }
    }

    fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Json(Value::Number(number)) => {
                let integer = number.as_i128();
                // JSON has one kind of number: 49.0 is the integer 49.
                integer.or_else(|| {
                    number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i128)
                })
            }
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn as_float(&self) -> Option<f64> {
        match self {
            Self::Json(Value::Number(number)) => number.as_f64(),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// `text` in quotes, cut where a message would become unreadable.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("'{shown}'")
}

/// The fields of one request, by name.
#[derive(Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, Field>);

impl Fields {
    pub(crate) fn from_json(body: &[u8]) -> Result<Self> {
        let not_json = |error: serde_json::Error| match error.to_string().strip_prefix(DUPLICATE) {
            // serde_json appends the place to the message of a custom error.
            Some(rest) => duplicate(rest.split('\'').next().unwrap_or(rest)),
            None => Error::refused(Code::InvalidRequest, format!("the body is not a JSON object: {error}")),
        };
        serde_json::from_slice(body).map_err(not_json)
    }

    pub(crate) fn from_urlencoded(text: &[u8]) -> Result<Self> {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(text) {
            fields.insert_text(&name, value.into_owned())?;
        }
        Ok(fields)
    }

    /// Adds a form's text field, `name` perhaps in bracket notation.
    pub(crate) fn insert_text(&mut self, name: &str, text: String) -> Result<()> {
        let bracketed = name.strip_suffix(']').and_then(|rest| rest.split_once('['));
        // Deeper nesting has no meaning here; it stays one unknown name.
        let Some((group, key)) = bracketed.filter(|(_, key)| !key.contains(['[', ']'])) else {
            return self.insert(name, Field::Text(text));
        };
        match self.0.entry(group.to_owned()).or_insert_with(|| Field::Group(BTreeMap::new())) {
            Field::Group(members) => match members.insert(key.to_owned(), text) {
                // `name[]` is a list, whose entries share their name.
                Some(_) if !key.is_empty() => Err(duplicate(name)),
                _ => Ok(()),
            },
            _ => Err(duplicate(group)),
        }
    }

    pub(crate) fn insert(&mut self, name: &str, field: Field) -> Result<()> {
        match self.0.insert(name.to_owned(), field) {
            None => Ok(()),
            Some(_) => Err(duplicate(name)),
        }
    }

    /// The field's value; a JSON null is a field that was not given.
    pub(crate) fn take(&mut self, name: &str) -> Option<Field> {
        self.0.remove(name).filter(|field| !matches!(field, Field::Json(Value::Null)))
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Field::Json(Value::String(text)) | Field::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Field::Json(Value::Bool(value))) => Ok(Some(value)),
            // Python's `str(True)` is capitalised.
            Some(Field::Text(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Field::Text(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(other) => Err(wrong_type(name, "a boolean", &other)),
        }
    }

    /// An integer of `range`; outside it the refusal has `code`.
    pub(crate) fn integer<T: TryFrom<i128>>(
        &mut self,
        name: &str,
        range: &RangeInclusive<i64>,
        code: Code,
    ) -> Result<Option<T>> {
        let Some(field) = self.take(name) else { return Ok(None) };
        let integer = field.as_integer().ok_or_else(|| wrong_type(name, "an integer", &field))?;
        let (least, most) = (*range.start(), *range.end());
        let in_range = (i128::from(least)..=i128::from(most)).contains(&integer);
        match T::try_from(integer) {
            Ok(value) if in_range => Ok(Some(value)),
            _ => {
                let message = format!("'{name}' must lie between {least} and {most}, found {integer}");
                Err(Error::param(code, name, message))
            }
        }
    }

    pub(crate) fn float(&mut self, name: &str) -> Result<Option<f64>> {
        let Some(field) = self.take(name) else { return Ok(None) };
        field.as_float().map(Some).ok_or_else(|| wrong_type(name, "a number", &field))
    }

    /// A number, or text that reads as one also in JSON: OpenAI's `seconds` is a string.
    pub(crate) fn float_or_text(&mut self, name: &str) -> Result<Option<f64>> {
        let field = match self.take(name) {
            None => return Ok(None),
            Some(Field::Json(Value::String(text))) => Field::Text(text),
            Some(field) => field,
        };
        let number = field.as_float();
        number.map(Some).ok_or_else(|| wrong_type(name, "a number, or a string that reads as one", &field))
    }

    /// An object whose values are strings.
    pub(crate) fn string_map(&mut self, name: &str) -> Result<Option<BTreeMap<String, String>>> {
        let expected = "an object whose values are strings";
        let object = match self.take(name) {
            None => return Ok(None),
            Some(Field::Group(members)) => return Ok(Some(members)),
            Some(Field::Json(Value::Object(object))) => object,
            Some(Field::Text(text)) => match serde_json::from_str(&text) {
                Ok(Value::Object(object)) => object,
                _ => return Err(wrong_type(name, expected, &Field::Text(text))),
            },
            Some(other) => return Err(wrong_type(name, expected, &other)),
        };
        let members = object.into_iter().map(|(key, value)| match value {
            Value::String(text) => Ok((key, text)),
            other => Err(wrong_type(&format!("{name}[{key}]"), "a string", &Field::Json(other))),
        });
        members.collect::<Result<_>>().map(Some)
    }

    /// A list of objects, or JSON text of one; each has its members under names such as `name[0].member`.
    pub(crate) fn objects(&mut self, name: &str) -> Result<Option<Vec<Self>>> {
        let expected = "a list of objects";
        let entries = match self.take(name) {
            None => return Ok(None),
            Some(Field::Json(Value::Array(entries))) => entries,
            Some(Field::Text(text)) => match serde_json::from_str(&text) {
                Ok(Value::Array(entries)) => entries,
                _ => return Err(wrong_type(name, expected, &Field::Text(text))),
            },
            Some(other) => return Err(wrong_type(name, expected, &other)),
        };
        let members = |(index, entry): (usize, Value)| match entry {
            Value::Object(members) => {
                let named = |(key, value)| (format!("{name}[{index}].{key}"), Field::Json(value));
                Ok(Self(members.into_iter().map(named).collect()))
            }
            other => Err(wrong_type(&format!("{name}[{index}]"), "an object", &Field::Json(other))),
        };
        entries.into_iter().enumerate().map(members).collect::<Result<_>>().map(Some)
    }

    /// The names of the fields that nothing has taken.
    pub(crate) fn into_names(self) -> impl Iterator<Item = String> {
        self.0.into_keys()
    }

    /// Refuses a field that nothing has taken.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let message = format!("{} is not a parameter of this endpoint", quoted(&name));
                Err(Error::param(Code::UnknownParameter, name, message))
            }
        }
    }
}

fn wrong_type(name: &str, expected: &str, found: &Field) -> Error {
    let message = format!("'{name}' must be {expected}, found {}", found.found());
    Error::param(Code::InvalidType, name, message)
}

fn duplicate(name: &str) -> Error {
    let message = format!("{} is given more than once", quoted(name));
    Error::param(Code::DuplicateParameter, name, message)
}

/// Starts the message with which a doubled JSON member passes through serde.
const DUPLICATE: &str = "duplicate member '";

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Unlike `serde_json::Map`, refuses a member given twice instead of keeping the last.
struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            fields
                .insert(&name, Field::Json(value))
                .map_err(|_| A::Error::custom(format!("{DUPLICATE}{name}'")))?;
        }
        Ok(fields)
    }
}
