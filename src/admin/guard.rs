//! Who may do what on the operator's listener. Browsers are kept from being used against it: a page that resolves its own
//! name to our address (DNS rebinding) fails by `Host`, one that sends its visitor's browser here fails by `Origin`.
//! Whoever comes from elsewhere shows the token; without one set, only what machines need to watch us is open there. Pure.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::Config;

/// Open to machines that watch: they are told nothing secret.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// `Host` names nobody we are.
    Host,
    /// A page of somebody else wants a change.
    Origin,
    /// From elsewhere, and no token is set.
    NoTokenSet,
    /// No token was shown, or a wrong one.
    Token,
}

/// Whether a request may be answered.
pub fn admit(config: &Config, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Barred> {
    let host = host(uri, headers)?;
    if !host.is_none_or(|host| is_ours(config, host)) {
        return Err(Barred::Host);
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    if changes && !is_own(headers, host) {
        return Err(Barred::Origin);
    }
    if OPEN.contains(&uri.path()) {
        return Ok(());
    }
    match config.token() {
        Some(token) if shown(headers).is_some_and(|shown| token.is(&shown)) => Ok(()),
        Some(_) => Err(Barred::Token),
        None if config.listen.is_some_and(|listen| is_loopback(listen.ip())) => Ok(()),
        None => Err(Barred::NoTokenSet),
    }
}

/// The one host that is named; HTTP/1.0 may name none.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, Barred> {
    let mut lines = headers.get_all(header::HOST).iter();
    let line = lines.next().map(|line| line.to_str().map_err(|_| Barred::Host)).transpose()?;
    let named = uri.authority().map(http::uri::Authority::as_str);
    let agree = lines.next().is_none() && named.is_none_or(|named| line.is_none_or(|line| line == named));
    if agree { Ok(line.or(named)) } else { Err(Barred::Host) }
}

fn is_ours(config: &Config, host: &str) -> bool {
    let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_loopback = name == "localhost" || name.ends_with(".localhost");
    is_address || is_loopback || config.allow_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Whether the page that asks, if one does, is this listener's own; TLS may have ended before us.
fn is_own(headers: &HeaderMap, host: Option<&str>) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    let named = origin.to_str().ok();
    let of = ["http://", "https://"].iter().find_map(|scheme| named?.strip_prefix(scheme));
    origins.next().is_none() && host.is_some_and(|host| of.is_some_and(|of| of.eq_ignore_ascii_case(host)))
}

/// The token of `Authorization`: a bearer's, or the password of whoever a browser asked.
fn shown(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    let pair = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest).ok())??;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

impl Barred {
    /// The status it is answered with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Host | Self::Origin | Self::NoTokenSet => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
        }
    }

    /// What there is to mend.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Host => {
                "this name is not known here: use an address, localhost, or add the name to admin.allow_hosts\n"
            }
            Self::Origin => "a page of another origin may change nothing here\n",
            Self::NoTokenSet => "off loopback this needs a token: set admin.token or admin.token_file\n",
            Self::Token => "the token is missing or wrong: Authorization: Bearer TOKEN, or Basic with it as password\n",
        }
    }

    /// What a browser is told, so that it asks for the token. A line for each way: Chromium does not read two from one line.
    pub fn challenge(self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        const WAYS: [&str; 2] = ["Basic realm=\"ticketgate\"", "Bearer"];
        let ways = WAYS.into_iter().filter(move |_| self == Self::Token);
        ways.map(|way| (header::WWW_AUTHENTICATE, HeaderValue::from_static(way)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::Token;
    use super::*;

    fn config(listen: &str, token: Option<&str>) -> Config {
        let token = token.map(|token| Token::of(token).unwrap());
        Config {
            listen: Some(listen.parse().unwrap()),
            token,
            token_file: None,
            allow_hosts: vec!["ops.example".to_owned()],
        }
    }

    fn asked(
        config: &Config,
        method: &Method,
        path: &'static str,
        fields: &[(HeaderName, &str)],
    ) -> Result<(), Barred> {
        let field = |(name, value): &(HeaderName, &str)| (name.clone(), HeaderValue::from_str(value).unwrap());
        admit(config, method, &Uri::from_static(path), &fields.iter().map(field).collect())
    }

    const LOOPBACK: &str = "127.0.0.1:9180";
    const EVERYWHERE: &str = "0.0.0.0:9180";

    #[test]
    fn only_names_that_cannot_be_rebound_are_answered() {
        let config = config(LOOPBACK, None);
        let host = |host: &str| asked(&config, &Method::GET, "/config", &[(header::HOST, host)]);
        for ours in [
            "127.0.0.1:9180",
            "[::1]:9180",
            "[::1]",
            "localhost",
            "LOCALHOST:9180",
            "a.localhost",
            "192.0.2.1",
            "ops.example:1",
            "ops.example.",
        ] {
            assert_eq!(host(ours), Ok(()), "{ours}");
        }
        for foreign in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "ops.example.evil"] {
            assert_eq!(host(foreign), Err(Barred::Host), "{foreign}");
        }
        let two = [(header::HOST, "127.0.0.1"), (header::HOST, "127.0.0.1")];
        assert_eq!(asked(&config, &Method::GET, "/config", &two), Err(Barred::Host));
        assert_eq!(asked(&config, &Method::GET, "/config", &[]), Ok(()), "HTTP/1.0");
        let absolute = asked(&config, &Method::GET, "http://evil.example/config", &[(header::HOST, "127.0.0.1")]);
        assert_eq!(absolute, Err(Barred::Host));
    }

    #[test]
    fn a_change_is_made_for_no_page_but_our_own() {
        let config = config(LOOPBACK, None);
        let from = |origin: &str| {
            asked(&config, &Method::POST, "/reload", &[(header::HOST, "localhost:9180"), (header::ORIGIN, origin)])
        };
        assert_eq!(from("http://localhost:9180"), Ok(()));
        assert_eq!(from("https://localhost:9180"), Ok(()));
        for foreign in
            ["http://localhost", "http://127.0.0.1:9180", "null", "", "http://evil.example", "http://localhost:91800"]
        {
            assert_eq!(from(foreign), Err(Barred::Origin), "{foreign}");
        }
        let looks = asked(&config, &Method::GET, "/config", &[(header::HOST, "localhost"), (header::ORIGIN, "null")]);
        assert_eq!(looks, Ok(()), "reading is the browser's to forbid");
    }

    #[test]
    fn off_loopback_and_wherever_one_is_set_the_token_is_needed() {
        let host = [(header::HOST, "192.0.2.1:9180")];
        for path in OPEN {
            assert_eq!(asked(&config(EVERYWHERE, None), &Method::GET, path, &host), Ok(()), "{path}");
        }
        let look = |config: &Config, fields: &[(HeaderName, &str)]| asked(config, &Method::GET, "/config", fields);
        assert_eq!(look(&config(EVERYWHERE, None), &host), Err(Barred::NoTokenSet));
        for listen in [LOOPBACK, EVERYWHERE] {
            let config = config(listen, Some("s3cret"));
            assert_eq!(look(&config, &host), Err(Barred::Token));
            let with = |value: &str| look(&config, &[host[0].clone(), (header::AUTHORIZATION, value)]);
            assert_eq!(with("Bearer s3cret"), Ok(()));
            assert_eq!(with("bearer  s3cret"), Ok(()));
            let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
            assert_eq!((with(&basic("any:s3cret")), with(&basic(":s3cret"))), (Ok(()), Ok(())));
            for wrong in [
                "Bearer",
                "Bearer ",
                "Bearer s3cre",
                "Basic s3cret",
                "s3cret",
                "Bearer s3cret, x",
                &basic("s3cret"),
                &basic("s3cret:"),
            ] {
                assert_eq!(with(wrong), Err(Barred::Token), "{wrong}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_shown_makes_it_panic(value: Vec<u8>, host: Vec<u8>) {
            let fields = [(header::AUTHORIZATION, value), (header::HOST, host)];
            let valid = fields.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_bytes(&value).ok()?)));
            let config = config(EVERYWHERE, Some("s3cret"));
            let _ = admit(&config, &Method::POST, &Uri::from_static("/reload"), &valid.collect());
        }
    }
}
