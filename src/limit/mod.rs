//! Limits on calls: who a client is ([`client`]), the three budgets (S28) that it and the origin have, how many connections or
//! requests it may have at once ([`shares`], [`requests`]), and who makes room when all connections are taken ([`crowd`]).
//!
//! A browser never retries an `<img>`, so a wait beats a refusal. A budget with a wait admits at once whoever can be served
//! within it, and says how long to hold them back: places in the queue are given out in order of arrival, by one atomic
//! operation, without polling. Who hangs up while waiting has spent the place all the same.

mod budget;
pub mod client;
pub mod config;
pub mod crowd;
pub mod fields;
pub mod requests;
pub mod shares;
mod slots;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use budget::{ClientBudget, SharedBudget};
pub use client::{Client, Trust};
pub use config::{ClientConfig, ClientHeader, Config, Policy, TellBudget, Trusted};
pub use crowd::Crowd;
pub use requests::{Requests, TooMany, UnderWay};
use waiters::Waiters;

use crate::clock::Clock;
use crate::moment::Tick;

/// The budgets of one proxy. Its memory is fixed however many clients come.
#[derive(Debug)]
pub struct Limits {
    client_requests: Option<Arc<ClientBudget>>,
    client_misses: Option<Arc<ClientBudget>>,
    origin_fills: Option<Arc<SharedBudget>>,
    late_fills: Option<Arc<SharedBudget>>,
    waiters: Arc<Waiters>,
    crowd: Arc<Crowd>,
}

/// Which budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetName {
    /// Image requests of one client.
    ClientRequests,
    /// Cache misses of one client.
    ClientMisses,
    /// Calls to the origin in all.
    OriginFills,
}

/// A call may go ahead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Admitted {
    /// After so long.
    pub delay: Duration,
    /// So many more may follow at once.
    pub left: u32,
    /// By this policy; `None` when the budget is off.
    pub policy: Option<Policy>,
}

/// A call may not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refused {
    /// By this budget,
    pub budget: BudgetName,
    /// whose policy this is.
    pub policy: Policy,
    /// When the next call would be admitted.
    pub retry_after: Duration,
}

impl Limits {
    /// Budgets by `config`, full.
    pub fn new(config: &Config, clock: &Clock) -> Self {
        let nothing = Self {
            client_requests: None,
            client_misses: None,
            origin_fills: None,
            late_fills: None,
            waiters: Arc::default(),
            crowd: Arc::default(),
        };
        nothing.renewed(config, clock)
    }

    /// Budgets by `config`. One whose policy stays remembers who has spent what; a changed one is full.
    #[must_use]
    pub fn renewed(&self, config: &Config, clock: &Clock) -> Self {
        let client = |budget: &Option<Arc<ClientBudget>>, policy: Option<Policy>| {
            let same = budget.as_ref().filter(|budget| Some(budget.policy()) == policy).cloned();
            same.or_else(|| policy.map(|policy| Arc::new(ClientBudget::new(policy, clock))))
        };
        let shared = |budget: &Option<Arc<SharedBudget>>, policy: Option<Policy>| {
            let same = budget.as_ref().filter(|budget| Some(budget.policy()) == policy).cloned();
            same.or_else(|| policy.map(|policy| Arc::new(SharedBudget::new(policy, clock))))
        };
        self.waiters.limit(config.max_waiters);
        Self {
            client_requests: client(&self.client_requests, config.client_requests),
            client_misses: client(&self.client_misses, config.client_misses),
            origin_fills: shared(&self.origin_fills, config.origin_fills),
            late_fills: shared(&self.late_fills, config.origin_fills.map(Policy::tenth)),
            waiters: Arc::clone(&self.waiters),
            crowd: Arc::clone(&self.crowd),
        }
    }

    /// Admits a request of `client`, made `now`, once its turn has come: at once, unless this budget was given a wait. Dropping
    /// the future gives up the turn.
    pub async fn request(&self, client: &Client, now: Tick) -> Result<Admitted, Refused> {
        let Some(budget) = &self.client_requests else { return Ok(Admitted::UNLIMITED) };
        let admitted = budget.admit(client, now).map_err(|refusal| refusal.by(BudgetName::ClientRequests))?;
        self.wait(admitted, budget.policy(), BudgetName::ClientRequests).await
    }

    /// Admits a miss of `client`, seen `now`, once its turn has come. Dropping the future gives up the turn.
    pub async fn miss(&self, client: &Client, now: Tick) -> Result<Admitted, Refused> {
        let Some(budget) = &self.client_misses else { return Ok(Admitted::UNLIMITED) };
        let admitted = budget.admit(client, now).map_err(|refusal| refusal.by(BudgetName::ClientMisses))?;
        self.wait(admitted, budget.policy(), BudgetName::ClientMisses).await
    }

    /// Admits a call to the origin, once its turn has come.
    pub async fn fill(&self) -> Result<Admitted, Refused> {
        let Some(budget) = &self.origin_fills else { return Ok(Admitted::UNLIMITED) };
        let admitted = budget.admit().map_err(|refusal| refusal.by(BudgetName::OriginFills))?;
        self.wait(admitted, budget.policy(), BudgetName::OriginFills).await
    }

    /// Admits a call to the origin for a ticket whose life is over, which spends a tenth of the budget at most (S22), once
    /// its turn has come.
    pub async fn late_fill(&self) -> Result<Admitted, Refused> {
        if let Some(budget) = &self.late_fills {
            let admitted = budget.admit().map_err(|refusal| refusal.by(BudgetName::OriginFills))?;
            self.wait(admitted, budget.policy(), BudgetName::OriginFills).await?;
        }
        self.fill().await
    }

    /// Who makes room when all connections are taken.
    pub fn crowd(&self) -> &Arc<Crowd> {
        &self.crowd
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiters.count()
    }

    async fn wait(&self, admitted: Admitted, policy: Policy, budget: BudgetName) -> Result<Admitted, Refused> {
        if admitted.delay.is_zero() {
            return Ok(admitted);
        }
        let full = Refused { budget, policy, retry_after: admitted.delay };
        let _place = self.waiters.enter().ok_or(full)?;
        tokio::time::sleep(admitted.delay).await;
        Ok(admitted)
    }
}

impl Admitted {
    /// By a budget that is off.
    pub const UNLIMITED: Self = Self { delay: Duration::ZERO, left: u32::MAX, policy: None };
}

impl BudgetName {
    /// Every budget, in the order of the discriminants.
    pub const ALL: [Self; 3] = [Self::ClientRequests, Self::ClientMisses, Self::OriginFills];

    /// Its name, as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientRequests => "client_requests",
            Self::ClientMisses => "client_misses",
            Self::OriginFills => "origin_fills",
        }
    }
}

#[cfg(test)]
mod tests;
