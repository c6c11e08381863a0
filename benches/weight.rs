//! What an image of WeChat's size costs in memory, beyond its bytes: the source of the cache's `OVERHEAD`. Each image has
//! been served once. `cargo bench --bench weight` (Linux).

#![expect(clippy::print_stdout, reason = "a figure to read is all it is for")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use ticketgate::cache::directives::Directives;
use ticketgate::cache::entry::{Image, Life};
use ticketgate::cache::format::Format;
use ticketgate::cache::freshness::{Exchange, Freshness};
use ticketgate::cache::grace::Grace;
use ticketgate::cache::{Cache, Config, Found};
use ticketgate::clock::Clock;
use ticketgate::moment::Wall;
use ticketgate::ticket::{Ticket, Validity, mint};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IMAGES: u32 = 10_000;
/// As large as WeChat's own.
const IMAGE: usize = 28_026;

/// Resident bytes of this process.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells it");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number") * 1024
}

fn ticket(number: u32) -> Ticket {
    let url = format!("http://weixin.qq.com/q/{number:022}");
    let text = mint(&url, Wall::from_unix(1_700_000_000), Validity::Permanent).expect("it fits");
    Ticket::from_text(&text).expect("it is a ticket")
}

fn main() {
    let clock = Clock::system();
    let cache = Cache::new(&Config { memory: 1 << 40, ..Config::default() }, 0, |_| {});
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=604800"));
    let said = Directives::of(&headers);
    let before = resident();
    for number in 0..IMAGES {
        let mut body = vec![0xff; IMAGE];
        body[..4].copy_from_slice(&number.to_le_bytes());
        let now = clock.now();
        let freshness = Freshness::of(&headers, &said, Exchange { asked: now, answered: now }, Duration::ZERO);
        let body = Bytes::from(body);
        let image =
            Image::new(body, Format::Jpeg, &headers, &Life { said, freshness, grace: Grace::NONE, expiry: None });
        cache.keep_image(&ticket(number), Arc::new(image), now);
        // A value that was ever cloned costs more than one that never was.
        if let Some(Found::Image(image)) = cache.answer(&ticket(number), clock.now()) {
            black_box((image.body.clone(), image.head().cloned().collect::<Vec<_>>()));
        }
        cache.tend();
    }
    let grown = resident() - before;
    let (images, bytes) = (IMAGES as usize, IMAGES as usize * IMAGE);
    let percent = |bytes_in_all: usize| bytes_in_all as f64 / bytes as f64 * 100.0 - 100.0;
    let weighed = usize::try_from(cache.images().bytes).expect("it fits");
    println!(
        "{images} images of {IMAGE} bytes: {} bytes each beyond them ({:.1} %)",
        (grown - bytes) / images,
        percent(grown)
    );
    println!("weighed: {} bytes each ({:.1} %)", (weighed - bytes) / images, percent(weighed));
}
