//! Mistakes in a configuration, told so that they can be mended: where, what is wrong, what would be valid.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use super::secret;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands.
    pub place: Place,
    /// What is wrong, and what would be valid.
    pub text: String,
}

/// Where a value, or a mistake, comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of the configuration file.
    Line(Line),
    /// The configuration file as a whole.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// Nobody set it.
    Default,
}

/// A line of the configuration file, and the part of it that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The file.
    pub file: PathBuf,
    /// Its number, from 1.
    pub number: usize,
    /// Its text.
    pub text: String,
    /// Characters before the part that is meant.
    pub before: usize,
    /// Characters of the part that is meant, at least one.
    pub width: usize,
}

/// Every mistake of a configuration, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Line {
    /// The line of `source`, the content of `file`, in which the bytes `span` begin.
    pub fn of(file: PathBuf, source: &str, span: std::ops::Range<usize>) -> Self {
        let start = floor_boundary(source, span.start);
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let rest = &source[line_start..];
        let text = rest.lines().next().unwrap_or_default();
        let number = source[..line_start].matches('\n').count() + 1;
        if let Some(shown) = secret::masked_line(&source[..line_start], text) {
            let width = super::show::MASK.len();
            let before = shown.chars().count() - width;
            return Self { file, number, text: shown, before, width };
        }
        let end = floor_boundary(source, span.end).clamp(start, line_start + text.len().max(start - line_start));
        Self {
            file,
            number,
            text: text.to_owned(),
            before: source[line_start..start].chars().count(),
            width: source[start..end].chars().count().max(1),
        }
    }
}

fn floor_boundary(source: &str, at: usize) -> usize {
    (0..=at.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0)
}

impl Mistakes {
    pub(super) fn sorted(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| mistake.place.rank());
        Self(mistakes)
    }
}

impl Place {
    /// Whether it is a line of the file below `line`.
    pub(super) fn is_below(&self, line: usize) -> bool {
        matches!(self, Self::Line(own) if own.number > line)
    }

    /// Whether it is one of these lines of the file.
    pub(super) fn is_in(&self, lines: &BTreeSet<usize>) -> bool {
        matches!(self, Self::Line(line) if lines.contains(&line.number))
    }

    /// The file first, line by line, since most mistakes are there.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::File(_) => (0, 0),
            Self::Line(line) => (1, line.number),
            Self::Variable(_) => (2, 0),
            Self::Flag(_) => (3, 0),
            Self::Default => (4, 0),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "{}:{}", line.file.display(), line.number),
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, secret::without_passwords(&self.text))?;
        if let Place::Line(line) = &self.place {
            let gutter = line.number.to_string();
            let empty = " ".repeat(gutter.len());
            // A tab in the line is a tab under it, so that the caret stands where it should.
            let indent: String =
                line.text.chars().take(line.before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let text = secret::without_passwords(&line.text);
            write!(f, "\n  {gutter} | {text}\n  {empty} | {indent}{}", "^".repeat(line.width))?;
        }
        Ok(())
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(mistakes) = self;
        for mistake in mistakes {
            writeln!(f, "{mistake}")?;
        }
        match mistakes.len() {
            1 => f.write_str("1 mistake in the configuration"),
            count => write!(f, "{count} mistakes in the configuration"),
        }
    }
}

impl std::error::Error for Mistakes {}
