use std::num::NonZeroU32;
use std::sync::Arc;

use http::HeaderMap;

use super::*;
use crate::clock::Hands;

fn policy(rate: f64, burst: u32, wait: u64) -> Policy {
    Policy { rate, burst: NonZeroU32::new(burst).unwrap(), wait: Duration::from_secs(wait) }
}

fn client(number: u32) -> Client {
    Client::at(std::net::Ipv4Addr::from(0x0a00_0000 + number).into())
}

/// A budget, and the time by which it is asked.
struct Timed(ClientBudget, Clock);

impl Timed {
    fn admit(&self, client: &Client) -> Result<Admitted, budget::Refusal> {
        self.0.admit(client, self.1.tick())
    }
}

fn budget(policy: Policy, slots: usize) -> (Timed, Arc<Hands>) {
    let (clock, hands) = Clock::adjustable();
    (Timed(ClientBudget::with_slots(policy, &clock, slots), clock), hands)
}

fn now() -> Tick {
    Clock::system().tick()
}

/// How many of `calls` are admitted, and the longest delay.
fn burst_of(budget: &Timed, client: &Client, calls: u32) -> (usize, Duration) {
    let admitted: Vec<_> = (0..calls).filter_map(|_| budget.admit(client).ok()).collect();
    (admitted.len(), admitted.iter().map(|admitted| admitted.delay).max().unwrap_or_default())
}

#[test]
fn exactly_the_burst_is_admitted_at_once() {
    let (budget, hands) = budget(policy(1.0, 100, 0), 1024);
    assert_eq!(burst_of(&budget, &client(1), 300), (100, Duration::ZERO));
    hands.advance(Duration::from_secs(7));
    assert_eq!(burst_of(&budget, &client(1), 300).0, 7, "and what time brings after it");
    assert_eq!(burst_of(&budget, &client(2), 300).0, 100, "others have their own");
}

#[test]
fn a_wait_lengthens_the_queue_by_what_comes_in_meanwhile() {
    let (budget, _hands) = budget(policy(0.5, 100, 20), 1024);
    let (admitted, longest) = burst_of(&budget, &client(1), 300);
    assert_eq!(admitted, 110);
    assert_eq!(longest, Duration::from_secs(20));
    assert!(budget.admit(&client(1)).unwrap_err().by(BudgetName::ClientMisses).retry_after <= Duration::from_secs(2));
}

#[test]
fn turns_come_one_after_the_other() {
    let (budget, _hands) = budget(policy(0.5, 1, 10), 1024);
    let delays: Vec<_> = (0..4).map(|_| budget.admit(&client(1)).unwrap().delay.as_secs()).collect();
    assert_eq!(delays, [0, 2, 4, 6]);
}

#[test]
fn eight_hundred_cold_codes_of_one_address_see_no_refusal_by_default() {
    let (budget, _hands) = budget(policy(50.0, 500, 10), 1024);
    let (admitted, longest) = burst_of(&budget, &client(1), 800);
    assert_eq!(admitted, 800);
    assert!(longest <= Duration::from_secs(6), "{longest:?}");
}

#[test]
fn a_flood_of_strangers_rarely_drains_a_good_client() {
    let refused = |rows: &dyn Fn(&Timed, &Client) -> bool| {
        let (budget, _hands) = budget(policy(0.001, 10, 0), 4096);
        // Each stranger spends all it has; together they fill a fifth of each row.
        for stranger in 0..800 {
            burst_of(&budget, &client(stranger), 10);
        }
        (10_000..11_000).filter(|good| !rows(&budget, &client(*good))).count()
    };
    let both = refused(&|budget, client| budget.admit(client).is_ok());
    // A good client shares a slot with a stranger with probability 0.18 in one row and 0.03 in both.
    assert!(both < 80, "{both} of 1,000");
    assert!(both > 0, "two rows of this size cannot keep everybody apart: {both}");
}

#[tokio::test]
async fn a_budget_that_is_off_admits_everything() {
    let config = Config { client_requests: None, ..Config::default() };
    let limits = Limits::new(&config, &Clock::system());
    for _ in 0..10_000 {
        assert_eq!(limits.request(&client(1), now()).await, Ok(Admitted::UNLIMITED));
    }
}

fn waiting_limits(max_waiters: usize) -> Arc<Limits> {
    let config = Config { client_misses: Some(policy(1.0, 1, 30)), max_waiters, ..Config::default() };
    Arc::new(Limits::new(&config, &Clock::system()))
}

#[tokio::test(start_paused = true)]
async fn waiters_are_bounded_and_leave_their_place_when_they_go() {
    let limits = waiting_limits(10);
    limits.miss(&client(1), now()).await.unwrap();
    let mut waiting: Vec<_> = (0..10)
        .map(|_| {
            let limits = Arc::clone(&limits);
            tokio::spawn(async move { limits.miss(&client(1), now()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(limits.waiting(), 10);
    let refused = limits.miss(&client(1), now()).await.unwrap_err();
    assert_eq!(refused.budget, BudgetName::ClientMisses);
    let gone = waiting.pop().unwrap();
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(limits.waiting(), 9);
    for waiter in waiting {
        assert!(waiter.await.unwrap().is_ok());
    }
    assert_eq!(limits.waiting(), 0);
}

#[test]
fn the_fields_say_what_the_draft_wants() {
    let policy = policy(0.5, 5, 0);
    let refused = Refused { budget: BudgetName::OriginFills, policy, retry_after: Duration::from_millis(1200) };
    let told = |tell| {
        let mut headers = HeaderMap::new();
        fields::refused(&mut headers, &refused, tell);
        headers
    };
    let headers = told(TellBudget::Refusals);
    assert_eq!(headers["retry-after"], "2");
    assert_eq!(headers["ratelimit-policy"], "\"origin\";q=5;w=10");
    assert_eq!(headers["ratelimit"], "\"origin\";r=0;t=2");
    assert_eq!(told(TellBudget::Never).len(), 1, "Retry-After is always told");
    let admitted = Admitted { delay: Duration::ZERO, left: 3, policy: Some(policy) };
    let mut headers = HeaderMap::new();
    fields::admitted(&mut headers, &admitted, TellBudget::Refusals);
    assert!(headers.is_empty());
    fields::admitted(&mut headers, &admitted, TellBudget::Always);
    assert_eq!(headers["ratelimit"], "\"client\";r=3;t=4");
}
