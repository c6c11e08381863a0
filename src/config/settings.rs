//! Where values come from: the command line, the environment, the file, in this order. Keeps account of which keys are
//! known, so that what is left over in a source can be told as a mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Line, Mistake, Mistakes, Place};
use super::show::{MASK, Show};
use super::value::{Value, Wrong};

/// Bytes of a configuration file; more is a wrong file.
const LONGEST_FILE: u64 = 1024 * 1024;

/// Prefix of environment variables.
const PREFIX: &str = "TICKETGATE_";

/// Names the file, like `--config`; not a key.
pub const CONFIG_VARIABLE: &str = "TICKETGATE_CONFIG";

/// Tells a successor whose it is; not a key either.
pub const PREDECESSOR_VARIABLE: &str = "TICKETGATE_PREDECESSOR";

/// Where to look for a file that nobody named.
const FILES: [&str; 2] = ["ticketgate.toml", "/etc/ticketgate/ticketgate.toml"];

/// What a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that was named; `None` looks in the usual places.
    pub file: Option<PathBuf>,
    /// Whether to look in the usual places at all.
    pub look_around: bool,
    /// The environment; variables of others are ignored.
    pub environment: Vec<(String, String)>,
    /// The command line.
    pub flags: Vec<Flag>,
}

/// A value from the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The flag as the user knows it.
    pub name: &'static str,
    /// The key that it sets.
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// The sources, opened.
pub(super) struct Settings {
    file: Option<PathBuf>,
    given: BTreeMap<String, Given>,
    variables: BTreeMap<String, String>,
    flags: Vec<Flag>,
    known: BTreeMap<&'static str, Place>,
    shown: BTreeMap<&'static str, serde_json::Value>,
    /// Lines that are no TOML: what they may have meant is not judged as well.
    garbled: BTreeSet<usize>,
    mistakes: Vec<Mistake>,
}

/// A value in the file.
struct Given {
    value: Value,
    key_place: Place,
    value_place: Place,
}

impl Settings {
    /// Opens the sources. What cannot be read is a mistake like any other.
    pub(super) fn open(sources: Sources) -> Self {
        let Sources { file, look_around, environment, flags } = sources;
        let is_ours = |(name, _): &(String, String)| name.starts_with(PREFIX) && !is_not_a_key(name);
        let mut settings = Self {
            file: None,
            given: BTreeMap::new(),
            variables: environment.into_iter().filter(is_ours).collect(),
            flags,
            known: BTreeMap::new(),
            shown: BTreeMap::new(),
            garbled: BTreeSet::new(),
            mistakes: Vec::new(),
        };
        let usual = || FILES.iter().map(PathBuf::from).find(|path| look_around && path.exists());
        if let Some(path) = file.or_else(usual) {
            settings.read_file(path);
        }
        settings
    }

    /// The file that was read.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref()
    }

    /// Sets `slot` to the value given for `key`, if there is one; `read` says whether it is valid.
    pub(super) fn set<T: Show>(&mut self, slot: &mut T, key: &'static str, read: impl Fn(&Value) -> Result<T, Wrong>) {
        let place = match self.find(key) {
            None => Place::Default,
            Some((value, place)) => {
                match read(&value) {
                    Ok(value) => *slot = value,
                    Err(Wrong { is, valid }) => {
                        let text = format!("{key}: {value} {is}; valid: {valid}");
                        self.mistakes.push(Mistake { place: place.clone(), text });
                    }
                }
                place
            }
        };
        self.known.insert(key, place);
        self.shown.insert(key, slot.show());
    }

    /// The same for what is secret: a mistake in it is told without it.
    pub(super) fn set_secret<T: Show>(
        &mut self,
        slot: &mut T,
        key: &'static str,
        read: impl Fn(&Value) -> Result<T, Wrong>,
    ) {
        let before = self.mistakes.len();
        self.set(slot, key, read);
        for mistake in &mut self.mistakes[before..] {
            let (_, valid) = mistake.text.rsplit_once("; valid: ").unwrap_or_default();
            mistake.text = format!("{key}: {MASK} is not valid; valid: {valid}");
        }
    }

    /// Every key that was read, with the value that is in force.
    pub(super) fn into_shown(self) -> BTreeMap<&'static str, serde_json::Value> {
        self.shown
    }

    /// Notes that the values in force contradict each other; the mistake stands where the first of `keys` that anybody
    /// set was set.
    pub(super) fn conflict(&mut self, keys: &[&'static str], text: String) {
        let set = |key: &&'static str| self.known.get(key).filter(|place| **place != Place::Default).cloned();
        let place = keys.iter().find_map(set).unwrap_or(Place::Default);
        self.mistakes.push(Mistake { place, text });
    }

    /// The keys that nobody set.
    #[cfg(test)]
    pub(super) fn untouched(&self) -> Vec<&'static str> {
        let unset = self.known.iter().filter(|(_, place)| **place == Place::Default);
        unset.map(|(key, _)| *key).collect()
    }

    /// Tells what is left over, and everything else that was wrong.
    pub(super) fn finish(mut self) -> Result<(), Mistakes> {
        // Below a line that is no TOML, sections may not be what they seem.
        let garbled_at = self.garbled.first().copied();
        let is_below = |place: &Place| garbled_at.is_some_and(|line| place.is_below(line));
        let left_over = std::mem::take(&mut self.given);
        for (key, given) in left_over.into_iter().filter(|(_, given)| !is_below(&given.key_place)) {
            let text = unknown(&key, &self.known);
            self.mistakes.push(Mistake { place: given.key_place, text });
        }
        for name in std::mem::take(&mut self.variables).into_keys() {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            let near = nearest(&key, self.known.keys().copied());
            let hint = near.map(|near| format!("; did you mean {}?", variable(near))).unwrap_or_default();
            self.mistakes
                .push(Mistake { place: Place::Variable(name), text: format!("sets no key that exists{hint}") });
        }
        if self.mistakes.is_empty() { Ok(()) } else { Err(Mistakes::sorted(self.mistakes)) }
    }

    /// The value of the strongest source. The weaker ones are known as well, and so no mistake.
    fn find(&mut self, key: &'static str) -> Option<(Value, Place)> {
        let from_file = self.given.remove(key).map(|given| (given.value, given.value_place));
        let name = variable(key);
        let from_variable = self.variables.remove(&name).map(|text| (Value::Bare(text), Place::Variable(name)));
        let flag = self.flags.iter().find(|flag| flag.key == key);
        let from_flag = flag.map(|flag| (Value::Bare(flag.value.clone()), Place::Flag(flag.name)));
        from_flag.or(from_variable).or(from_file)
    }

    /// The text given for `key`; `""` is none. Judges nothing.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let (value, _) = self.find(key)?;
        value.as_text().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn read_file(&mut self, path: PathBuf) {
        match read(&path) {
            Ok(source) => self.parse(&path, &source),
            Err(text) => self.mistakes.push(Mistake { place: Place::File(path.clone()), text }),
        }
        self.file = Some(path);
    }

    fn parse(&mut self, path: &Path, source: &str) {
        let (document, errors) = DeTable::parse_recoverable(source);
        for error in errors {
            let span = error.span().unwrap_or_default();
            let line = Line::of(path.to_owned(), source, span);
            self.garbled.insert(line.number);
            self.mistakes.push(Mistake { place: Place::Line(line), text: format!("not TOML: {}", error.message()) });
        }
        let line = |span| Place::Line(Line::of(path.to_owned(), source, span));
        self.collect("", document.get_ref(), &line);
    }

    /// Flattens tables to dotted keys; a table that is a value (a budget) is kept whole as well.
    fn collect(&mut self, prefix: &str, table: &DeTable<'_>, line: &dyn Fn(std::ops::Range<usize>) -> Place) {
        for (name, value) in table {
            let key =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            match value.get_ref() {
                DeValue::Table(inner) if is_section(&key) => self.collect(&key, inner, line),
                _ => {
                    let (key_place, value_place) = (line(name.span()), line(value_span(value, name)));
                    if !key_place.is_in(&self.garbled) {
                        self.given.insert(key, Given { value: Value::of(value.get_ref()), key_place, value_place });
                    }
                }
            }
        }
    }
}

/// The sections of the file. A table below one of them is a value.
const SECTIONS: [&str; 12] =
    ["origin", "forward", "cache", "tickets", "limits", "timeouts", "cors", "tls", "admin", "relay", "log", "trace"];

fn is_section(key: &str) -> bool {
    SECTIONS.contains(&key)
}

/// `[limits.client_misses]` has no value to point at: its header stands in.
fn value_span<T, U>(value: &Spanned<T>, name: &Spanned<U>) -> std::ops::Range<usize> {
    let span = value.span();
    if span.is_empty() { name.span() } else { span }
}

fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err("is longer than 1 MiB, so it is no configuration file".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Kubernetes and Docker links set these for a service that is called `ticketgate`; they are not meant for us.
fn is_not_a_key(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    name == CONFIG_VARIABLE
        || name == PREDECESSOR_VARIABLE
        || rest.starts_with("SERVICE_")
        || rest == "PORT"
        || rest.starts_with("PORT_")
}

fn unknown(key: &str, known: &BTreeMap<&'static str, Place>) -> String {
    if is_section(key) {
        return format!("{key} is a section, not a value; write [{key}] and its keys below");
    }
    if let Some(near) = nearest(key, known.keys().copied().chain(SECTIONS)) {
        let near = if is_section(near) { format!("[{near}]") } else { near.to_owned() };
        return format!("unknown key {key}; did you mean {near}?");
    }
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    let siblings: Vec<&str> = known.keys().filter_map(|known| in_section(known, section)).collect();
    match siblings.as_slice() {
        [] => format!("unknown key {key}; sections: [{}]", SECTIONS.join("], [")),
        siblings if section.is_empty() => {
            format!(
                "unknown key {key}; valid outside of sections: {}; sections: [{}]",
                siblings.join(", "),
                SECTIONS.join("], [")
            )
        }
        siblings => format!("unknown key {key}; valid in [{section}]: {}", siblings.join(", ")),
    }
}

fn in_section<'a>(key: &'a str, section: &str) -> Option<&'a str> {
    let name = if section.is_empty() { key } else { key.strip_prefix(section)?.strip_prefix('.')? };
    (!name.contains('.')).then_some(name)
}

/// The known name that was probably meant.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let (score, near) = scored.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (score > 0.9).then_some(near)
}
