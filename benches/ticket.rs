//! What it costs to find a ticket in a query, by what had been done to it. `cargo bench --bench ticket`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ticketgate::ticket::Ticket;

/// The sample in WeChat's documentation.
const SAMPLE: &str = "gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw";

fn canonical(criterion: &mut Criterion) {
    let forms = [
        ("bare", format!("ticket={SAMPLE}==")),
        ("encoded", format!("ticket={SAMPLE}%3D%3D")),
        ("among others", format!("access_token=x&scene=1&ticket={SAMPLE}%3D%3D&download=a.jpg")),
        ("encoded twice", format!("ticket={SAMPLE}%253D%253D")),
        ("padding lost", format!("ticket={SAMPLE}")),
        ("line break", format!("ticket={}%0A{}%3D%3D", &SAMPLE[..40], &SAMPLE[40..])),
        ("opaque", "ticket=new.layout~1%2Fwhatever".to_owned()),
    ];
    let mut group = criterion.benchmark_group("ticket");
    for (name, query) in forms {
        group.bench_function(name, |bencher| bencher.iter(|| Ticket::from_query(Some(black_box(&query)))));
    }
    group.finish();
}

criterion_group!(benches, canonical);
criterion_main!(benches);
