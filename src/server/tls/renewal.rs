//! Looks again and again whether the certificate's files have changed, and puts what they hold in force without a restart.
//! Contents are compared, not dates: Kubernetes swaps links, others write in place. Says what is near its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Config;
use super::certificate::{BadCertificate, Certificate, Pem};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::mishap::outlived_aside;
use crate::moment::Wall;

const DAY: Duration = Duration::from_secs(86_400);

/// Days before the end at which a certificate that nobody renewed is told, each once.
const WARN_AT: [u32; 3] = [21, 7, 1];

/// Keeps the certificate in force the one in the files.
pub struct Renewal {
    config: Config,
    certificate: Arc<Certificate>,
    clock: Clock,
    metrics: Arc<Metrics>,
    seen: Result<Pem, BadCertificate>,
    /// What is seen is of no use, and nobody was told: the files may be in the middle of a change.
    suspect: bool,
    countdown: Countdown,
}

/// What was said about the end of a certificate.
#[derive(Debug, Default)]
struct Countdown {
    told: usize,
}

impl Renewal {
    /// Watches the files of `config`, from which `certificate` was made.
    pub fn new(config: Config, certificate: Arc<Certificate>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let seen = Ok(certificate.pem().clone());
        Self { config, certificate, clock, metrics, seen, suspect: false, countdown: Countdown::default() }
    }

    /// Takes over the pair that `config` names, whichever it is, and returns whether it is another one; an error leaves the one
    /// in force.
    pub fn adopt(&mut self, config: Config) -> Result<bool, BadCertificate> {
        let pem = Pem::read(&config)?;
        let pair = pem.parse(&config)?;
        self.certificate.replace(pair);
        (self.config, self.suspect) = (config, false);
        let is_another = self.seen.as_ref() != Ok(&pem);
        if is_another {
            self.countdown = Countdown::default();
        }
        self.seen = Ok(pem);
        self.mind_the_end(self.clock.now().wall);
        Ok(is_another)
    }

    fn look(&mut self) {
        let found = Pem::read(&self.config);
        if found != self.seen {
            self.try_out(&found);
            self.seen = found;
        } else if std::mem::take(&mut self.suspect) {
            self.complain();
        }
        self.mind_the_end(self.clock.now().wall);
    }

    fn try_out(&mut self, found: &Result<Pem, BadCertificate>) {
        let parsed = found.as_ref().map_err(Clone::clone).and_then(|pem| pem.parse(&self.config));
        self.suspect = parsed.is_err();
        if let Ok(pair) = parsed {
            self.certificate.replace(pair);
            self.countdown = Countdown::default();
            tracing::info!("the TLS certificate in force is the one that is now in tls.cert");
        }
    }

    /// The same files twice are no change that is under way.
    fn complain(&mut self) {
        let parsed = self.seen.as_ref().map_err(Clone::clone).and_then(|pem| pem.parse(&self.config));
        if let Err(bad) = parsed {
            self.metrics.tls_certificates_refused.inc();
            tracing::warn!("{bad}; the TLS certificate stays the one that was in force");
        }
    }

    fn mind_the_end(&mut self, now: Wall) {
        let Some(end) = self.certificate.end() else { return };
        self.metrics.certificate_ends(end);
        let left = end.since(now);
        if self.countdown.is_news(left) {
            let days = left.as_secs() / DAY.as_secs();
            if left.is_zero() {
                tracing::warn!("the TLS certificate has expired: renew tls.cert");
            } else {
                tracing::warn!(days, "the TLS certificate ends soon: renew tls.cert");
            }
        }
    }
}

/// Lets `renewal` look `every` so often, away from those who serve. A panic costs one look, and is counted. Ends with its runtime.
pub async fn watch(renewal: Arc<Mutex<Renewal>>, every: Duration, metrics: Arc<Metrics>) {
    let mut due = tokio::time::interval(every);
    loop {
        due.tick().await;
        let renewal = Arc::clone(&renewal);
        // A file system may hang.
        let looking = move || renewal.lock().unwrap_or_else(PoisonError::into_inner).look();
        let _ = outlived_aside(looking, &metrics.panics).await;
    }
}

impl Countdown {
    /// Whether a certificate with so much life left has come to a mark that was not told yet.
    fn is_news(&mut self, left: Duration) -> bool {
        let passed = WARN_AT.iter().filter(|days| left <= DAY * **days).count() + usize::from(left.is_zero());
        let told = self.told;
        self.told = told.max(passed);
        passed > told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_told_once_and_those_passed_together_as_one() {
        let mut countdown = Countdown::default();
        let mut told = |days: u32| countdown.is_news(DAY * days);
        let news: Vec<u32> = (0..=90).rev().filter(|days| told(*days) || told(*days)).collect();
        assert_eq!(news, [21, 7, 1, 0]);
        let mut late = Countdown::default();
        assert!(late.is_news(DAY * 3));
        assert!(!late.is_news(DAY * 2));
    }
}
