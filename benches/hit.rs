//! The cached answer: what a hit costs without sockets, and over one keep-alive connection on loopback (there the kernel's
//! copy is most of it). `cargo bench --bench hit`.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, header};
use ticketgate::app::{App, Running, Surroundings};
use ticketgate::config::Config;
use ticketgate::limit::{Admitted, Client};
use ticketgate::reply::Reply;
use ticketgate::respond::Asked;
use ticketgate::ticket::Ticket;

/// As large as WeChat's own (28,026 bytes).
const IMAGE: usize = 28_026;
const QUERY: &str =
    "ticket=gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEAAAAAA%3D%3D";

/// Answers every request with an image that may be kept for a week. Ends with the process.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            while stream.read(&mut head).is_ok_and(|read| read > 0) {
                let mut answer =
                    format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=604800\r\nContent-Length: {IMAGE}\r\n\r\n")
                        .into_bytes();
                let body = answer.len();
                answer.resize(body + IMAGE, 0);
                answer[body..body + 3].copy_from_slice(b"\xff\xd8\xff");
                if stream.write_all(&answer).is_err() {
                    break;
                }
            }
        }
    });
    address
}

fn proxy() -> Running {
    let mut config = Config::default();
    config.server.listen = Some(([127, 0, 0, 1], 0).into());
    config.admin.listen = None;
    config.origin.url = format!("http://{}", origin()).parse().expect("an address makes a URL");
    // A bench asks more often than any browser.
    config.limits.client_requests = None;
    App::bind(config, Surroundings::default()).and_then(App::start).expect("it starts")
}

/// Sends one request and reads the whole answer.
fn round_trip(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> usize {
    stream.write_all(request).expect("the proxy reads");
    let mut read = 0;
    while read < IMAGE {
        read += stream.read(&mut buffer[read..]).expect("the proxy answers");
    }
    read
}

fn hit(criterion: &mut Criterion) {
    let running = proxy();
    let mut stream = TcpStream::connect(running.addresses().public.expect("it is on")).expect("it listens");
    let request = format!("GET /cgi-bin/showqrcode?{QUERY} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut buffer = vec![0; 2 * IMAGE];
    round_trip(&mut stream, request.as_bytes(), &mut buffer);

    let shared = running.reload().shared();
    let answer = |headers: &HeaderMap| {
        let ticket = Ticket::from_query(Some(black_box(QUERY))).expect("it is a ticket");
        let found = shared.cache.answer(&ticket, shared.clock.now()).expect("it is cached");
        let asked = Asked { method: &Method::GET, query: Some(QUERY), headers };
        Reply::found(found, Admitted::UNLIMITED).answer(asked, Some(ticket), &shared.responder, shared.clock.now())
    };
    let plain = HeaderMap::new();
    let etag = answer(&plain).response.headers()[header::ETAG].clone();
    let conditional: HeaderMap = [(header::IF_NONE_MATCH, etag)].into_iter().collect();
    let forwarded: HeaderMap =
        [(header::HeaderName::from_static("x-forwarded-for"), HeaderValue::from_static("203.0.113.7"))]
            .into_iter()
            .collect();

    let mut group = criterion.benchmark_group("hit");
    group.bench_function("answer", |bencher| bencher.iter(|| answer(&plain)));
    group.bench_function("answer 304", |bencher| bencher.iter(|| answer(&conditional)));
    group.bench_function("client behind a proxy", |bencher| {
        let peer = [127, 0, 0, 1].into();
        bencher.iter(|| -> Client { shared.trust.client(peer, black_box(&forwarded)) });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("round trip", |bencher| {
        bencher.iter(|| round_trip(&mut stream, request.as_bytes(), &mut buffer));
    });
    group.finish();
}

criterion_group!(benches, hit);
criterion_main!(benches);
