//! Undoes what common mistakes do to a ticket on its way into a page (S7).
//!
//! No ticket contains white space, a backslash or a percent sign, and its length is a multiple of four. A text that keeps
//! to this is taken as it is. Anything else is tried in the forms it may have had, in a fixed order, and the first one
//! that the ticket's own checksum proves is the ticket. When nothing proves, the text is opaque: spaces go back to `+`,
//! the rest stays as it came, so that tickets of a layout nobody knows yet keep working.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::layout;

/// Layers of percent-encoding beyond the one that every query has: twice is seen in the wild, thrice costs nothing more.
const LAYERS: usize = 2;

/// One thing that had to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// A `+` had become a space.
    SpaceToPlus,
    /// White space had got in.
    WhiteSpace,
    /// A `/` carried JSON's backslash.
    Backslash,
    /// It was percent-encoded more than once.
    DoubleEncoding,
    /// `=` at the end was lost, or too many.
    Padding,
}

/// The repairs made to one ticket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repairs(u8);

impl Repair {
    /// Every repair, in the order of the discriminants.
    pub const ALL: [Self; 5] =
        [Self::SpaceToPlus, Self::WhiteSpace, Self::Backslash, Self::DoubleEncoding, Self::Padding];

    /// The word for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpaceToPlus => "space-to-plus",
            Self::WhiteSpace => "white-space",
            Self::Backslash => "backslash",
            Self::DoubleEncoding => "double-encoding",
            Self::Padding => "padding",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Repairs {
    /// No repair.
    pub const NONE: Self = Self(0);

    /// Whether nothing was mended.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The repairs, each once.
    pub fn iter(self) -> impl Iterator<Item = Repair> {
        Repair::ALL.into_iter().filter(move |repair| self.0 & repair.bit() != 0)
    }

    const fn with(self, repair: Repair, made: bool) -> Self {
        Self(if made { self.0 | repair.bit() } else { self.0 })
    }
}

/// The canonical form of a text that was decoded once, and what had to be mended; `None` when it cannot be a ticket.
pub(super) fn canonical(decoded: &str) -> Option<(Cow<'_, str>, Repairs)> {
    if is_clean(decoded) || layout::read(decoded).is_some() {
        return Some((Cow::Borrowed(decoded), Repairs::NONE));
    }
    let proved = proved(decoded).or_else(|| proved_with_pluses(decoded));
    proved.map(|(text, repairs)| (Cow::Owned(text), repairs)).or_else(|| opaque(decoded))
}

/// Nothing here needs mending, so nothing needs proof. This is the hot path.
fn is_clean(text: &str) -> bool {
    let letters = text.trim_end_matches('=');
    // Every letter is looked at, which the compiler does to sixteen at once.
    let all_letters = letters.bytes().fold(true, |all, byte| all & is_letter(byte));
    text.len() - letters.len() <= 2 && text.len().is_multiple_of(4) && all_letters
}

const fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'_' | b'-')
}

fn proved(decoded: &str) -> Option<(String, Repairs)> {
    let mut layer = Cow::Borrowed(decoded);
    for depth in 0..=LAYERS {
        let unwrapped = Repairs::NONE.with(Repair::DoubleEncoding, depth > 0);
        if let Some(found) = proved_in_layer(&layer, unwrapped) {
            return Some(found);
        }
        let next = percent_decode_str(&layer).decode_utf8().ok()?.into_owned();
        if next == *layer {
            return None;
        }
        layer = Cow::Owned(next);
    }
    None
}

/// With the outermost spaces back to `+`, as [`opaque`] would have them: only then may a deeper layer prove, and what is
/// opaque must stay what it is when it comes again.
fn proved_with_pluses(decoded: &str) -> Option<(String, Repairs)> {
    let spaced = decoded.contains(' ');
    let (text, repairs) = spaced.then(|| proved(&decoded.replace(' ', "+")))??;
    Some((text, repairs.with(Repair::SpaceToPlus, true)))
}

fn proved_in_layer(layer: &str, before: Repairs) -> Option<(String, Repairs)> {
    let unslashed = layer.replace('\\', "");
    let before = before.with(Repair::Backslash, unslashed.len() < layer.len());
    let spaced = unslashed.contains(' ');
    let broken = unslashed.contains(is_break);
    let candidates = [
        // A space was a `+`, unless it stands at an end or beside a line break, where it is indentation.
        (plus_for_inner_spaces(&unslashed), Repair::SpaceToPlus),
        (unslashed.replace(|c| c == ' ' || is_break(c), ""), Repair::WhiteSpace),
        (unslashed.replace(is_break, "").replace(' ', "+"), Repair::SpaceToPlus),
    ];
    candidates.into_iter().find_map(|(candidate, spaces_as)| {
        let mended = padded(&candidate);
        layout::read(&mended)?;
        let pluses = candidate.matches('+').count() > unslashed.matches('+').count();
        let repairs = before
            .with(Repair::SpaceToPlus, spaces_as == Repair::SpaceToPlus && pluses)
            .with(Repair::WhiteSpace, broken || spaced && !pluses)
            .with(Repair::Padding, mended != candidate);
        Some((mended, repairs))
    })
}

const fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\t')
}

fn plus_for_inner_spaces(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text.trim_matches(|c| c == ' ' || is_break(c));
    while let Some(start) = rest.find(|c| c == ' ' || is_break(c)) {
        let (before, from) = rest.split_at(start);
        let after = from.trim_start_matches(|c| c == ' ' || is_break(c));
        let gap = &from[..from.len() - after.len()];
        mended.push_str(before);
        if !gap.contains(is_break) {
            mended.extend(gap.chars().map(|_| '+'));
        }
        rest = after;
    }
    mended.push_str(rest);
    mended
}

/// As many `=` as the length wants.
fn padded(text: &str) -> String {
    let letters = text.trim_end_matches('=');
    let mut padded = letters.to_owned();
    padded.extend(std::iter::repeat_n('=', (4 - letters.len() % 4) % 4));
    padded
}

/// Spaces back to `+`, the rest as it came.
fn opaque(decoded: &str) -> Option<(Cow<'_, str>, Repairs)> {
    if !decoded.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return None;
    }
    if !decoded.contains(' ') {
        return Some((Cow::Borrowed(decoded), Repairs::NONE));
    }
    Some((Cow::Owned(decoded.replace(' ', "+")), Repairs::NONE.with(Repair::SpaceToPlus, true)))
}
