//! The operator's status page in a real browser: what it shows, what it lets the operator do, and what it says when the proxy is
//! gone. Run with `cargo test --test it browser:: -- --ignored`.

use std::time::Duration;

use serde_json::{Value, json};
use ticketgate::admin::token::Token;
use ticketgate::config::Config;
use ticketgate::demo::qr;
use ticketgate::ticket::Ticket;
use tokio::task::block_in_place;

use crate::support::browser::Browser;
use crate::support::client::Connection;
use crate::support::load::{Load, Refused};
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tickets;
use crate::support::tls::Authority;

/// The chart of requests.
const REQUESTS: &str = "#charts .card:nth-child(2)";

struct Operator {
    origin: Origin,
    proxy: Proxy,
    browser: Browser,
}

impl Operator {
    async fn with(width: u32, height: u32, change: impl FnOnce(&mut Config)) -> Self {
        let pictures: Vec<_> = (0..4).map(|n| qr::draw(&format!("http://weixin.qq.com/q/{n}")).unwrap()).collect();
        let origin = Origin::start(move |number, head| match head {
            head if head.contains("unknown") => Answer::of(404, "", b"no"),
            head if head.contains("webpage") => Answer::of(200, "Content-Type: text/html\r\n", b"<html>"),
            head if head.contains("broken") => Answer::of(500, "", b"no"),
            _ => Answer::of(200, "Content-Type: image/jpg\r\nCache-Control: max-age=604800\r\n", &pictures[number % 4]),
        })
        .await;
        let proxy = Proxy::with(&origin, |config| {
            // A test asks more often than any browser.
            config.limits.client_requests = None;
            change(config);
        });
        let browser = block_in_place(|| Browser::start(width, height));
        Self { origin, proxy, browser }
    }

    async fn start() -> Self {
        Self::with(1280, 900, |_| {}).await
    }

    fn open(&self) {
        block_in_place(|| {
            self.browser.open(&format!("http://{}/", self.proxy.admin()));
            self.browser.wait_for("body[data-state=serving]");
        });
    }

    /// So many images of permanent tickets are held.
    async fn fill(&self, images: u32) {
        let mut client = self.proxy.connect().await;
        for number in 0..images {
            assert_eq!(client.get(&tickets::target(&tickets::permanent(number)), "").await.status, 200);
        }
    }

    fn run(&self, script: &str) -> Value {
        block_in_place(|| self.browser.run(script))
    }

    fn until(&self, script: &str) {
        block_in_place(|| self.browser.until(script));
    }

    fn wait_for(&self, selector: &str) {
        block_in_place(|| self.browser.wait_for(selector));
    }

    fn click(&self, selector: &str) {
        block_in_place(|| self.browser.click(selector));
    }

    fn keep_picture(&self, name: &str) {
        block_in_place(|| self.browser.keep_picture(name));
    }

    fn search(&self, text: &str) {
        let text = json!(text);
        self.run(&format!(
            "const field = document.getElementById('search'); field.value = {text};
             field.dispatchEvent(new Event('input'));"
        ));
    }

    fn rows(&self) -> Value {
        self.run("return [...document.querySelectorAll('#images tbody tr')].map((row) => row.dataset.short)")
    }

    fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector('{selector}').textContent"));
        text.as_str().unwrap_or_default().to_owned()
    }

    fn has_nothing_to_complain_of(&self) {
        assert_eq!(block_in_place(|| self.browser.console()), Vec::<Value>::new());
    }
}

fn short(ticket: &str) -> String {
    Ticket::from_text(ticket).unwrap().short().to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn the_charts_and_figures_move_under_load() {
    let operator = Operator::start().await;
    operator.fill(1).await;
    operator.open();
    let line = format!("return document.querySelector('{REQUESTS} path.first').getAttribute('d')");
    operator.until(&format!("{} > 20", line.replace("getAttribute('d')", "getAttribute('d')?.length")));
    let before = operator.run(&line);
    let target = tickets::target(&tickets::permanent(0));
    let load = Load::start(operator.proxy.address(), &target, 4, Refused::Fails);
    operator
        .until(&format!("return Number(document.querySelector('{REQUESTS} b').textContent.replaceAll(',', '')) > 50"));
    operator
        .until("return document.querySelector('#charts .card:nth-child(1) b').textContent.match(/^(99|100)/) !== null");
    operator.until("return /ms$/.test(document.querySelector('#charts .card:nth-child(5) b').textContent)");
    let answered = load.stop().await;
    assert!(answered > 50);
    assert_ne!(operator.run(&line), before);
    let label = operator.run(&format!("return document.querySelector('{REQUESTS} svg').ariaLabel"));
    assert!(label.as_str().unwrap().starts_with("Requests a second: the most was "), "{label}");
    operator.has_nothing_to_complain_of();
    assert_eq!(operator.origin.count(), 1, "looking asks nobody");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn a_pasted_ticket_or_url_finds_its_row_and_pages_turn() {
    let operator = Operator::start().await;
    operator.fill(60).await;
    operator.open();
    operator.until("return document.querySelectorAll('#images tbody tr').length === 50");
    operator.click("#more");
    operator.until("return document.querySelectorAll('#images tbody tr').length === 10");
    assert_eq!(operator.text("#page-number"), "51 to 60");
    operator.click("#back");
    operator.until("return document.querySelectorAll('#images tbody tr').length === 50");
    let ticket = tickets::permanent(37);
    let url = format!("https://shop.example{}", tickets::target(&ticket));
    for text in [ticket.clone(), url, short(&ticket)] {
        operator.search(&text);
        operator.until("return document.querySelectorAll('#images tbody tr').length === 1");
        assert_eq!(operator.rows(), json!([short(&ticket)]), "{text}");
        operator.until("return [...document.querySelectorAll('#images img')].every((image) => image.naturalWidth > 0)");
        operator.search("");
        operator.until("return document.querySelectorAll('#images tbody tr').length === 50");
    }
    operator.search("<b>nobody</b>");
    operator.wait_for("#no-images:not([hidden])");
    assert_eq!(operator.text("#no-images"), "No image that is held matches.");
    operator.has_nothing_to_complain_of();
    assert_eq!(operator.origin.count(), 60);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn a_life_counts_down_to_its_end() {
    let operator = Operator::start().await;
    let ticket = tickets::temporary(1, Duration::from_secs(12));
    operator.proxy.image(&ticket).await;
    operator.fill(1).await;
    operator.open();
    let row = format!("[data-short='{}'] [data-label='Expires in']", short(&ticket));
    operator.wait_for(&row);
    let seconds = format!("return parseInt(document.querySelector(\"{row}\")?.textContent)");
    let first = operator.run(&seconds).as_u64().unwrap();
    assert!((1..=12).contains(&first), "{first}");
    let before = seconds.replace("return ", "return (") + &format!(") <= {}", first - 1);
    operator.until(&before);
    operator.until(&format!("return !document.querySelector(\"{row}\")"));
    let permanent = format!("[data-short='{}'] [data-label='Expires in']", short(&tickets::permanent(0)));
    let told = operator.run(&format!("return document.querySelector(\"{permanent}\").textContent"));
    assert_eq!(told, "never");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn an_image_is_purged_and_refreshed_by_its_buttons() {
    let operator = Operator::start().await;
    operator.fill(3).await;
    operator.open();
    operator.until("return document.querySelectorAll('#images tbody tr').length === 3");
    let [purged, next] = [0, 1].map(|place| operator.rows()[place].as_str().unwrap().to_owned());
    operator.run(&format!("document.querySelector('[data-short=\"{purged}\"] button:last-of-type').focus()"));
    operator.click(&format!("[data-short='{purged}'] button:last-of-type"));
    operator.until(&format!("return !document.querySelector('[data-short=\"{purged}\"]')"));
    assert_eq!(operator.text("#message"), format!("{purged} was purged."));
    let focus = "return document.activeElement.getAttribute('aria-label')";
    assert_eq!(operator.run(focus), format!("Purge {next}"), "whoever came by keyboard goes on");
    let held = Connection::to_operator(operator.proxy.admin()).await.get("/images", "").await.json();
    assert_eq!(held["held"], 2);
    assert_eq!(operator.origin.count(), 3);
    operator.click(&format!("[data-short='{next}'] button:first-of-type"));
    operator.until(&format!("return document.getElementById('message').textContent === '{next} was fetched anew.'"));
    assert_eq!(operator.origin.count(), 4);
    operator.has_nothing_to_complain_of();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn failures_are_shown_with_what_finds_them_in_the_log() {
    let operator = Operator::start().await;
    operator.open();
    let from = "X-Forwarded-For: 203.0.113.7\r\nX-Request-Id: order-1\r\n";
    operator.proxy.get_with(&tickets::target("unknown<img>"), from).await;
    operator.wait_for("#failures tbody tr");
    let cells = operator.run(
        "return [...document.querySelectorAll('#failures tbody tr > *')].slice(1).map((cell) => cell.textContent)",
    );
    assert!(cells[0].as_str().unwrap().starts_with("unknown-ticketWeChat does not know this ticket"), "{cells}");
    assert_eq!(
        cells.as_array().unwrap()[1..],
        [json!("404"), json!(short("unknown<img>")), json!("203.0.113.7"), json!("order-1")]
    );
    let mut client = operator.proxy.connect().await;
    for _ in 0..230 {
        client.get("/cgi-bin/showqrcode?ticket=", "").await;
    }
    operator.until("return document.querySelectorAll('#failures tbody tr').length === 200");
    operator.until("return document.getElementById('failures-summary').textContent.startsWith('231 requests')");
    operator.has_nothing_to_complain_of();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn the_page_says_when_the_proxy_drains_when_it_is_gone_and_when_it_is_back() {
    let operator = Operator::start().await;
    operator.fill(2).await;
    operator.open();
    let at = operator.proxy.admin();
    operator.proxy.running.drain();
    operator.wait_for("#draining:not([hidden])");
    assert_eq!(operator.text("#state"), "Draining");
    let Operator { origin, proxy, browser } = operator;
    block_in_place(|| {
        drop(proxy);
        browser.wait_for("#lost:not([hidden])");
        let told = browser.run("return document.querySelector('[role=alert]').textContent");
        assert!(told.as_str().unwrap().starts_with("The proxy does not answer."), "{told}");
        assert_eq!(browser.run("return document.getElementById('draining').hidden"), true);
        browser.keep_picture("status-lost");
    });
    let proxy = Proxy::with(&origin, |config| config.admin.listen = Some(at));
    block_in_place(|| browser.wait_for("body[data-state=serving]"));
    let operator = Operator { origin, proxy, browser };
    operator.until("return document.getElementById('lost').hidden && document.getElementById('count').textContent === '0 images are held.'");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn the_token_is_asked_for_once_and_the_page_works_with_it() {
    let operator =
        Operator::with(1280, 900, |config| config.admin.token = Some(Token::of("open-sesame").unwrap())).await;
    operator.fill(1).await;
    block_in_place(|| operator.browser.open(&format!("http://x:open-sesame@{}/", operator.proxy.admin())));
    operator.wait_for("body[data-state=serving]");
    operator.wait_for("#images tbody tr");
    operator.until("return [...document.querySelectorAll('#images img')].every((image) => image.naturalWidth > 0)");
    operator.click("#images tbody tr button:last-of-type");
    operator.until("return document.querySelectorAll('#images tbody tr').length === 0");
    let page = operator.run("return document.documentElement.outerHTML");
    assert!(!page.as_str().unwrap().contains("open-sesame"));
    operator.has_nothing_to_complain_of();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn everything_is_reached_and_left_by_keyboard() {
    let operator = Operator::start().await;
    operator.fill(2).await;
    operator.proxy.get("/cgi-bin/showqrcode?ticket=").await;
    operator.open();
    operator.wait_for("#images tbody tr");
    operator.wait_for("#failures tbody tr");
    let mut reached = Vec::new();
    for _ in 0..12 {
        block_in_place(|| operator.browser.press("Tab", 9));
        let focus = "const e = document.activeElement; const s = getComputedStyle(e);
                     return [e.id || e.className || e.textContent, s.outlineStyle !== 'none' && parseInt(s.outlineWidth) >= 2]";
        reached.push(operator.run(focus));
    }
    let order = ["skip", "pause", "failures-box", "search", "order", "Refresh", "Purge", "Refresh", "Purge"];
    for (place, name) in order.iter().enumerate() {
        assert_eq!(reached[place], json!([name, true]), "{reached:?}");
    }
    assert!(reached.iter().skip(order.len()).any(|focus| focus[0] != "Purge"), "no trap: {reached:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn screen_readers_are_told_of_tables_and_fields_on_any_screen() {
    let operator = Operator::start().await;
    operator.fill(2).await;
    operator.proxy.get("/cgi-bin/showqrcode?ticket=").await;
    operator.open();
    operator.wait_for("#images tbody tr");
    operator.wait_for("#failures tbody tr");
    for width in [1280, 360] {
        block_in_place(|| operator.browser.resize(width, 800));
        let told = block_in_place(|| operator.browser.told_to_readers());
        let count = |role: &str| told.iter().filter(|(told, _)| told == role).count();
        assert_eq!((count("table"), count("row"), count("columnheader")), (2, 5, 14), "{width}: {told:?}");
        let has = |role: &str, name: &str| told.contains(&(role.to_owned(), name.to_owned()));
        assert!(has("searchbox", "Ticket, its short form, or a URL") && has("combobox", "Show first"), "{told:?}");
        assert!(has("button", &format!("Purge {}", short(&tickets::permanent(0)))), "{told:?}");
        assert!(
            has("meter", "Images") && has("image", &format!("Code of {}", short(&tickets::permanent(1)))),
            "{told:?}"
        );
        assert!(told.iter().any(|(role, name)| role == "image" && name.starts_with("Hit ratio: ")), "{told:?}");
    }
}

/// Something of everything, as on a busy afternoon.
async fn afternoon(width: u32, height: u32) -> Operator {
    let authority = Authority::new();
    authority.install();
    let operator = Operator::with(width, height, |config| {
        authority.configure(config);
        config.relay.listen = Some("127.0.0.1:0".parse().unwrap());
        config.cache.memory = 2 << 20;
    })
    .await;
    let mut client = operator.proxy.connect().await;
    for number in 0..24u32 {
        let life = Duration::from_secs(u64::from(40 + number * number * number * 30));
        let ticket = if number % 3 == 0 { tickets::permanent(number) } else { tickets::temporary(number, life) };
        for _ in 0..=30 / (number + 1) {
            client.get(&tickets::target(&ticket), "").await;
        }
        if number % 4 == 0 {
            operator.proxy.running.reload().shared().fills.learn(&Ticket::from_text(&ticket).unwrap(), None);
        }
    }
    client.get(&tickets::target("opaque"), "").await;
    for (number, bad) in ["unknown", "webpage", "broken", "", "unknown2", "unknown"].iter().enumerate() {
        let id = format!("X-Request-Id: checkout-{number}\r\nX-Forwarded-For: 203.0.113.{number}\r\n");
        client.get(&tickets::target(bad), &id).await;
    }
    operator.open();
    operator.wait_for("#images tbody tr");
    operator.wait_for("#failures tbody tr");
    let target = tickets::target(&tickets::permanent(0));
    for (round, clients) in (1000..).step_by(100).zip([2, 8, 3]) {
        let load = Load::start(operator.proxy.address(), &target, clients, Refused::Fails);
        let samples = operator.run("return known.taken").as_u64().unwrap();
        for number in round..round + 20 {
            client.get(&tickets::target(&tickets::permanent(number)), "").await;
        }
        operator.until(&format!("return known.taken >= {}", samples + 4));
        load.stop().await;
    }
    operator.until("return [...document.querySelectorAll('#images img')].every((i) => i.naturalWidth > 0 || i.getBoundingClientRect().top > innerHeight)");
    operator
}

/// Which elements do not fit the window.
const OVERFLOW: &str = "const width = document.documentElement.clientWidth;
     const wide = [...document.querySelectorAll('body *:not(.unseen, thead, thead *)')].filter((e) => e.getBoundingClientRect().right > width + 0.5);
     const cut = [...document.querySelectorAll('td, th:not(thead th), dt, dd, p, button, h3')].filter((e) => e.scrollWidth > e.clientWidth + 1);
     return [document.documentElement.scrollWidth - width, [...wide, ...cut].map((e) => e.tagName + '.' + e.className)]";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn the_page_fits_a_desk_and_a_phone_in_the_light_and_in_the_dark() {
    let operator = afternoon(1280, 900).await;
    for (width, height, name) in [(1280, 900, "desktop"), (768, 1000, "tablet"), (360, 740, "phone")] {
        block_in_place(|| operator.browser.resize(width, height));
        assert_eq!(operator.run(OVERFLOW), json!([0, []]), "{name}");
        block_in_place(|| operator.browser.prefer("prefers-color-scheme", "light"));
        operator.keep_picture(&format!("status-{name}-light"));
        block_in_place(|| operator.browser.prefer("prefers-color-scheme", "dark"));
        operator.keep_picture(&format!("status-{name}-dark"));
    }
    operator.has_nothing_to_complain_of();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn whoever_wants_less_motion_gets_less_and_whoever_pauses_gets_none() {
    let operator = Operator::start().await;
    block_in_place(|| operator.browser.prefer("prefers-reduced-motion", "reduce"));
    operator.fill(1).await;
    operator.open();
    let line = format!("document.querySelector('{REQUESTS} path.first').getAttribute('d')");
    operator.until(&format!("return {line}?.length > 10 && known.taken > 2"));
    operator.run(&format!("document.body.dataset.then = {line}; document.body.dataset.at = known.taken"));
    operator.until("return known.taken >= Number(document.body.dataset.at) + 3");
    assert_eq!(
        operator.run(&format!("return {line} === document.body.dataset.then")),
        true,
        "figures go on, lines wait"
    );
    operator.click("#pause");
    operator.wait_for("body[data-state=paused]");
    operator.until("return polling === null");
    let asked = "return performance.getEntriesByType('resource').length";
    let before = operator.run(asked);
    operator.run("document.body.dataset.ticks = 0; setInterval(() => document.body.dataset.ticks++, 1000)");
    operator.until("return Number(document.body.dataset.ticks) >= 3");
    assert_eq!(operator.run(asked), before, "nothing is asked");
    operator.click("#pause");
    operator.wait_for("body[data-state=serving]");
}
