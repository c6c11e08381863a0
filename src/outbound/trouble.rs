//! Why there is no connection, read off the errors of the libraries below HTTP.

use std::error::Error;
use std::io;

use rustix::io::Errno;

use super::connect::ConnectTimedOut;

/// Why no connection came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The name has no address.
    Unresolved,
    /// Name, TCP and TLS took too long.
    TimedOut,
    /// The peer's certificate does not hold.
    Certificate,
    /// The TLS handshake failed otherwise.
    Handshake,
    /// We have too many files open: nothing is wrong with the peer.
    NoDescriptors,
}

impl Trouble {
    /// What `error` is, or what caused it; `None` for anything else, such as a refused connection.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        // First, since a name that is looked up without a descriptor does not resolve.
        let lacking = links(error).any(lacks_descriptors).then_some(Self::NoDescriptors);
        lacking.or_else(|| links(error).find_map(Self::recognise))
    }

    fn recognise(link: &(dyn Error + 'static)) -> Option<Self> {
        if link.is::<ConnectTimedOut>() {
            return Some(Self::TimedOut);
        }
        if link.to_string().starts_with("dns error") {
            return Some(Self::Unresolved);
        }
        Some(match tls_error(link.downcast_ref::<io::Error>()?)? {
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Self::Certificate,
            _ => Self::Handshake,
        })
    }
}

fn lacks_descriptors(link: &(dyn Error + 'static)) -> bool {
    let errno = link.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Why the certificate of a peer does not hold, where `error` is about that.
pub fn certificate_cause(error: &(dyn Error + 'static)) -> Option<String> {
    use rustls::CertificateError as Bad;
    let of = |link: &(dyn Error + 'static)| match tls_error(link.downcast_ref::<io::Error>()?)? {
        rustls::Error::InvalidCertificate(bad) => Some(bad.clone()),
        _ => None,
    };
    Some(match links(error).find_map(of)? {
        Bad::UnknownIssuer => "nobody whom we believe has issued it".to_owned(),
        Bad::Expired | Bad::ExpiredContext { .. } => "it has expired".to_owned(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "it is for another host".to_owned(),
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "it is marked as a certificate authority's (CA:TRUE), which no server's may be".to_owned()
        }
        other => other.to_string(),
    })
}

/// `error` and what caused it, down to the bottom.
pub fn links<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&link| link.source())
}

/// An io error's `source` skips the error it wraps, and connectors wrap twice.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    let mut inner = error.get_ref()?;
    while let Some(wrapper) = inner.downcast_ref::<io::Error>() {
        inner = wrapper.get_ref()?;
    }
    inner.downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_certificate_is_told_by_what_is_wrong_with_it() {
        let told = |bad| certificate_cause(&io::Error::other(rustls::Error::InvalidCertificate(bad)));
        let ca = rustls::CertificateError::Other(rustls::OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity"))));
        assert!(told(ca).unwrap().contains("CA:TRUE"));
        assert!(told(rustls::CertificateError::NotValidForName).unwrap().contains("another host"));
        assert_eq!(certificate_cause(&io::Error::other(rustls::Error::DecryptError)), None);
    }

    #[test]
    fn a_cause_is_found_however_deep_it_lies() {
        let tls = |error: rustls::Error| io::Error::other(io::Error::other(error));
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(Trouble::of(&tls(unknown)), Some(Trouble::Certificate));
        assert_eq!(Trouble::of(&tls(rustls::Error::DecryptError)), Some(Trouble::Handshake));
        assert_eq!(Trouble::of(&io::Error::from(Errno::MFILE)), Some(Trouble::NoDescriptors));
        assert_eq!(Trouble::of(&ConnectTimedOut), Some(Trouble::TimedOut));
        assert_eq!(Trouble::of(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }
}
