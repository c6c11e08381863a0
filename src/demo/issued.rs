//! The tickets that the stand-in has issued, as WeChat would remember them: what is not in here it does not know. Of
//! bounded size; takes the time as an argument.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::moment::Wall;
use crate::ticket::{Validity, mint};

/// Tickets known at once. WeChat's own limit is 100,000 permanent ones.
pub const MOST: usize = 10_000;

/// Letters of a code. As many as in the years when tickets were written with `+`, `/` and `==`.
const CODE_LETTERS: usize = 20;
/// Codes tried for a ticket that has the letters which pages forget to encode. `/` comes up once in 64 codes; `+` is
/// up to the lifetime and the second.
const TRIES: usize = 1000;

const ALPHANUMERIC: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a code leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scene {
    /// A number.
    Id(u32),
    /// A text.
    Text(String),
}

/// How long a ticket is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// For so many seconds.
    Temporary(u32),
    /// For ever.
    Permanent,
}

/// An issued ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// The ticket.
    pub ticket: String,
    /// What its code encodes.
    pub url: String,
}

/// No more tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfTickets;

/// Every ticket issued and not yet expired.
#[derive(Debug, Default)]
pub struct Issued {
    tickets: HashMap<String, Known>,
    permanent: HashMap<Scene, String>,
    seed: RandomState,
    drawn: u64,
}

#[derive(Debug)]
struct Known {
    url: String,
    expires: Option<Wall>,
}

impl Issued {
    /// Issues a ticket. A permanent one of a scene is always the same.
    pub fn issue(&mut self, scene: Scene, term: &Term, now: Wall) -> Result<Issue, OutOfTickets> {
        if let (Term::Permanent, Some(ticket)) = (term, self.permanent.get(&scene)) {
            return Ok(Issue { ticket: ticket.clone(), url: self.tickets[ticket].url.clone() });
        }
        self.make_room(now)?;
        let issue = self.draw(term, now);
        self.tickets.insert(issue.ticket.clone(), Known { url: issue.url.clone(), expires: term.end(now) });
        if *term == Term::Permanent {
            self.permanent.insert(scene, issue.ticket.clone());
        }
        Ok(issue)
    }

    /// The url of a ticket that is valid at `now`.
    pub fn url(&self, ticket: &str, now: Wall) -> Option<&str> {
        self.tickets.get(ticket).filter(|known| known.is_valid(now)).map(|known| known.url.as_str())
    }

    fn make_room(&mut self, now: Wall) -> Result<(), OutOfTickets> {
        if self.tickets.len() >= MOST {
            self.tickets.retain(|_, known| known.is_valid(now));
        }
        if self.tickets.len() < MOST { Ok(()) } else { Err(OutOfTickets) }
    }

    fn draw(&mut self, term: &Term, now: Wall) -> Issue {
        let mut issue = self.candidate(term, now);
        for _ in 1..TRIES {
            if issue.ticket.contains('+') && issue.ticket.contains('/') {
                break;
            }
            issue = self.candidate(term, now);
        }
        issue
    }

    fn candidate(&mut self, term: &Term, now: Wall) -> Issue {
        let url = format!("http://weixin.qq.com/q/{}", self.code());
        let ticket = older(&mint(&url, now, term.validity()).expect("so short a url and a time before 2106 fit"));
        Issue { ticket, url }
    }

    fn code(&mut self) -> String {
        let mut code = String::with_capacity(CODE_LETTERS);
        while code.len() < CODE_LETTERS {
            self.drawn += 1;
            let chance = self.seed.hash_one(self.drawn);
            code.extend(chance.to_le_bytes().into_iter().take(CODE_LETTERS - code.len()).map(letter));
        }
        code
    }
}

impl Known {
    fn is_valid(&self, now: Wall) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

impl Term {
    fn validity(&self) -> Validity {
        match self {
            Self::Temporary(seconds) => Validity::Lifetime(Duration::from_secs((*seconds).into())),
            Self::Permanent => Validity::Permanent,
        }
    }

    /// A ticket counts in whole seconds from its creation.
    fn end(&self, now: Wall) -> Option<Wall> {
        match self {
            Self::Temporary(seconds) => Some(Wall::from_unix(now.unix() + i64::from(*seconds))),
            Self::Permanent => None,
        }
    }
}

fn letter(chance: u8) -> char {
    char::from(ALPHANUMERIC[usize::from(chance) % ALPHANUMERIC.len()])
}

/// The ticket as it was written until November 2016.
pub fn older(ticket: &str) -> String {
    ticket.replace('_', "+").replace('-', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall::from_unix(1_700_000_000);

    fn later(seconds: i64) -> Wall {
        Wall::from_unix(NOW.unix() + seconds)
    }

    #[test]
    fn tickets_are_well_formed_and_in_the_older_letters() {
        let mut issued = Issued::default();
        for (term, expires) in [(Term::Temporary(30), Some(later(30))), (Term::Permanent, None)] {
            let issue = issued.issue(Scene::Id(1), &term, NOW).unwrap();
            let facts = crate::ticket::Ticket::from_text(&issue.ticket).unwrap().facts().unwrap();
            assert_eq!((facts.expires(), facts.created, facts.url), (expires, NOW, issue.url));
            assert_eq!(issue.ticket.len(), 96);
            assert!(issue.ticket.ends_with("==") && !issue.ticket.contains(['_', '-']));
        }
    }

    #[test]
    fn a_ticket_has_the_letters_that_pages_forget_to_encode_where_its_lifetime_allows_it() {
        let mut issued = Issued::default();
        for scene in 0..20 {
            let ticket = issued.issue(Scene::Id(scene), &Term::Temporary(604_920), NOW).unwrap().ticket;
            assert!(ticket.contains('+') && ticket.contains('/'), "{ticket}");
        }
    }

    #[test]
    fn a_ticket_is_known_until_its_last_second() {
        let mut issued = Issued::default();
        let issue = issued.issue(Scene::Id(1), &Term::Temporary(30), NOW).unwrap();
        assert_eq!(issued.url(&issue.ticket, later(29)), Some(issue.url.as_str()));
        assert_eq!(issued.url(&issue.ticket, later(30)), None);
    }

    #[test]
    fn a_permanent_ticket_of_a_scene_is_always_the_same() {
        let mut issued = Issued::default();
        let mut ticket = |scene: &str, at| issued.issue(Scene::Text(scene.to_owned()), &Term::Permanent, at).unwrap();
        let first = ticket("shop", NOW);
        assert_eq!(ticket("shop", later(1000)), first);
        assert_ne!(ticket("door", NOW), first);
    }

    #[test]
    fn there_is_an_end_of_tickets_until_some_expire() {
        let mut issued = Issued::default();
        for number in 0..MOST {
            let known = Known { url: String::new(), expires: Some(later(30)) };
            issued.tickets.insert(number.to_string(), known);
        }
        assert_eq!(issued.issue(Scene::Id(1), &Term::Permanent, later(29)), Err(OutOfTickets));
        assert!(issued.issue(Scene::Id(1), &Term::Permanent, later(30)).is_ok());
        assert_eq!(issued.tickets.len(), 1);
    }
}
