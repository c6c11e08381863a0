//! A value as its source gives it, before it is known what it should be. [`super::kind`] knows.

use std::fmt;

use toml::de::{DeTable, DeValue};

/// A value, before it is known what it should be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A string of the file.
    Text(String),
    /// A word of the command line or the environment, which may be meant as anything.
    Bare(String),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A list.
    List(Vec<Value>),
    /// A table.
    Table(Vec<(String, Value)>),
    /// Something else that TOML can say.
    Other(String),
}

/// Why a value is not what it should be.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    /// What is wrong, as it reads after the value.
    pub(super) is: String,
    /// What would be valid.
    pub(super) valid: String,
}

impl Value {
    pub(super) fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(integer) => {
                let digits = i64::from_str_radix(integer.as_str(), integer.radix());
                digits.map_or_else(|_| Self::Other(integer.to_string()), Self::Integer)
            }
            DeValue::Float(float) => {
                float.as_str().parse().map_or_else(|_| Self::Other(float.as_str().to_owned()), Self::Float)
            }
            DeValue::Boolean(boolean) => Self::Bool(*boolean),
            DeValue::Datetime(datetime) => Self::Other(datetime.to_string()),
            DeValue::Array(items) => Self::List(items.iter().map(|item| Self::of(item.get_ref())).collect()),
            DeValue::Table(table) => Self::of_table(table),
        }
    }

    fn of_table(table: &DeTable<'_>) -> Self {
        let entry = |(name, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<DeValue<'_>>)| {
            (name.get_ref().to_string(), Self::of(value.get_ref()))
        };
        Self::Table(table.iter().map(entry).collect())
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Bare(text) => Some(text.trim()),
            _ => None,
        }
    }

    pub(super) fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            Self::Bare(text) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        }
    }

    pub(super) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Float(float) => Some(*float),
            Self::Bare(text) => text.trim().parse().ok(),
            Self::Integer(integer) => i32::try_from(*integer).ok().map(f64::from),
            _ => None,
        }
    }

    /// The table that a word of the environment spells out, as TOML would.
    pub(super) fn spelled_out(&self) -> Option<Self> {
        let Self::Bare(text) = self else { return None };
        DeValue::parse(text.trim()).ok().map(|value| Self::of(value.get_ref()))
    }

    /// The members of a list; the command line and the environment part them with commas, or write TOML.
    pub(super) fn as_list(&self) -> Option<Vec<Self>> {
        match self {
            Self::List(items) => Some(items.clone()),
            Self::Bare(text) if text.trim_start().starts_with('[') => self.spelled_out()?.as_list(),
            Self::Bare(text) => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Some(words.map(|word| Self::Bare(word.to_owned())).collect())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    /// As it would stand in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Bare(text) => write!(f, "{text:?}"),
            Self::Integer(integer) => integer.fmt(f),
            Self::Float(float) => float.fmt(f),
            Self::Bool(boolean) => boolean.fmt(f),
            Self::List(items) => {
                f.write_str("[")?;
                for (number, item) in items.iter().enumerate() {
                    let comma = if number == 0 { "" } else { ", " };
                    write!(f, "{comma}{item}")?;
                }
                f.write_str("]")
            }
            Self::Table(entries) => {
                f.write_str("{")?;
                for (number, (name, value)) in entries.iter().enumerate() {
                    let comma = if number == 0 { "" } else { "," };
                    write!(f, "{comma} {name} = {value}")?;
                }
                f.write_str(" }")
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}
