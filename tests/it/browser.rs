//! The demo's page, and others, in a real browser, which sees what no other client does: decoded pictures, canvases that may
//! be read, a policy that is enforced, HTTP/2 as it is really spoken. Run with `cargo test --test it browser -- --ignored`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ticketgate::app::Surroundings;
use ticketgate::demo::{Demo, qr};

use crate::support::browser::Browser;
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::scanner::Grey;
use crate::support::tickets;
use crate::support::tls::Authority;

const GOOD: [&str; 5] = ["bare", "encoded", "twice", "brief", "permanent"];

struct Viewer {
    demo: Demo,
    browser: Browser,
}

impl Viewer {
    fn start(width: u32, height: u32) -> Self {
        let demo = Demo::start("127.0.0.1:0".parse().unwrap(), Surroundings::default()).unwrap();
        Self { demo, browser: Browser::start(width, height) }
    }

    /// Opens the page and waits until every card has what it waits for.
    fn look(&self) {
        self.look_at(&self.demo.url());
    }

    fn look_at(&self, url: &str) {
        self.browser.open(url);
        for card in GOOD.into_iter().chain(["poster"]) {
            self.wait_for(card, "shown");
        }
        self.wait_for("broken", "broken");
        self.browser.wait_for("#figures[data-state=shown]");
    }

    fn wait_for(&self, card: &str, state: &str) {
        self.browser.wait_for(&format!("[data-card={card}][data-state={state}]"));
    }

    fn natural_size(&self, card: &str) -> Value {
        let image = format!("document.querySelector('[data-card={card}] img')");
        self.browser.run(&format!("const image = {image}; return [image.naturalWidth, image.naturalHeight]"))
    }

    fn count(&self, selector: &str) -> u64 {
        self.browser.run(&format!("return document.querySelectorAll('{selector}').length")).as_u64().unwrap()
    }

    /// Whether the page fits its window, and which elements do not.
    fn overflow(&self) -> Value {
        self.browser.run(
            "const width = document.documentElement.clientWidth;
             const wide = [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > width);
             return [document.documentElement.scrollWidth - width, wide.map((e) => e.tagName + '.' + e.className)]",
        )
    }

    /// The page cannot help that a browser reports a 404 or a 429, which it asks for on purpose.
    fn complaints(&self) -> Vec<Value> {
        let on_purpose = |entry: &Value| {
            let message = entry["message"].as_str().unwrap_or_default();
            entry["source"] == "network" && (message.contains("status of 404") || message.contains("status of 429"))
        };
        self.browser.console().into_iter().filter(|entry| !on_purpose(entry)).collect()
    }
}

#[test]
#[ignore = "needs chromium"]
fn every_good_code_is_shown_whole_and_the_broken_one_shows_as_broken() {
    let viewer = Viewer::start(1280, 900);
    viewer.look();
    for card in GOOD {
        assert_eq!(viewer.natural_size(card), json!([430, 430]), "{card}");
    }
    assert_eq!(viewer.natural_size("broken"), json!([0, 0]));
    for card in GOOD {
        viewer.browser.wait_for(&format!("[data-card={card}][data-inspected='200']"));
    }
    viewer.browser.wait_for("[data-card=broken][data-inspected='404']");
    assert_eq!(viewer.demo.figures().origin_images, 4, "three spellings, one call; brief, permanent, broken");
    viewer.browser.keep_picture("desktop-light");
    viewer.browser.prefer("prefers-color-scheme", "dark");
    viewer.browser.keep_picture("desktop-dark");
    assert_eq!(viewer.complaints(), Vec::<Value>::new());
}

#[test]
#[ignore = "needs chromium"]
fn a_poster_with_a_code_of_another_origin_can_be_read_and_scanned() {
    let viewer = Viewer::start(1280, 900);
    let port = viewer.demo.address().port();
    let pages = [("127.0.0.1", "localhost"), ("localhost", "127.0.0.1"), ("shop.example", "shop.example")];
    for (host, other) in pages {
        viewer.look_at(&format!("http://{host}:{port}/"));
        let url = viewer.browser.run("return document.getElementById('poster-url').textContent");
        assert!(url.as_str().unwrap().starts_with(&format!("http://{other}:{port}/")), "{url}");
        let jpeg = viewer.browser.run("return document.getElementById('poster').toDataURL('image/jpeg', 0.95)");
        let jpeg = jpeg.as_str().unwrap().strip_prefix("data:image/jpeg;base64,").expect("a canvas that may be read");
        let said = Grey::of(&STANDARD.decode(jpeg).unwrap()).scan();
        assert!(said.starts_with("http://weixin.qq.com/q/"), "{said}");
        viewer.browser.wait_for("#poster-save:not([hidden])");
        assert_eq!(viewer.complaints(), Vec::<Value>::new());
    }
}

#[test]
#[ignore = "needs chromium"]
fn the_brief_code_is_gone_when_its_time_is_up() {
    let viewer = Viewer::start(1280, 900);
    viewer.look();
    viewer.wait_for("brief", "gone");
    assert_eq!(viewer.natural_size("brief"), json!([0, 0]));
    viewer.browser.keep_picture("desktop-expired");
    assert_eq!(viewer.natural_size("permanent"), json!([430, 430]), "the others stay");
    assert_eq!(viewer.complaints(), Vec::<Value>::new());
}

#[test]
#[ignore = "needs chromium"]
fn the_button_reaches_the_limit_and_no_further_viewing_does() {
    let viewer = Viewer::start(1280, 900);
    viewer.look();
    viewer.look();
    assert_eq!(viewer.demo.figures().refused, 0, "viewing stays within the budget");
    viewer.browser.click("#burst");
    viewer.wait_for("limit", "recovering");
    let (served, refused) = (viewer.count("#dots [data-answer=served]"), viewer.count("#dots [data-answer=refused]"));
    viewer.browser.keep_picture("desktop-limit");
    assert_eq!(served + refused, 200);
    assert!(served >= 110, "{served} served: the budget less two views");
    assert!(refused > 0, "all served");
    assert!(viewer.demo.figures().refused >= refused);
    viewer.wait_for("limit", "recovered");
    let told = viewer.browser.run("return document.getElementById('retry-after').textContent");
    assert_eq!(told, "1 s");
    assert_eq!(viewer.complaints(), Vec::<Value>::new());
}

#[test]
#[ignore = "needs chromium"]
fn the_page_fits_a_phone() {
    let viewer = Viewer::start(360, 740);
    viewer.look();
    assert_eq!(viewer.overflow(), json!([0, []]));
    viewer.browser.keep_picture("phone-light");
    viewer.browser.prefer("prefers-color-scheme", "dark");
    viewer.browser.keep_picture("phone-dark");
}

#[test]
#[ignore = "needs chromium"]
fn the_page_says_so_when_the_demo_has_ended() {
    let Viewer { demo, browser } = Viewer::start(1280, 900);
    browser.open(&demo.url());
    browser.wait_for("#figures[data-state=shown]");
    drop(demo);
    browser.wait_for("#figures[data-state=lost]");
}

const LASTING: [&str; 4] = ["bare", "encoded", "twice", "permanent"];

impl Viewer {
    /// Bytes that came over the network for the picture of each of [`LASTING`].
    fn transferred(&self) -> Vec<u64> {
        let size = |card: &str| {
            let script = format!(
                "const src = document.querySelector('[data-card={card}] img').src;
                 const entries = performance.getEntriesByName(src).filter((e) => e.initiatorType === 'img');
                 return entries.map((e) => e.transferSize)"
            );
            self.browser.run(&script).as_array().unwrap().iter().filter_map(Value::as_u64).max().expect(card)
        };
        LASTING.map(size).to_vec()
    }
}

#[test]
#[ignore = "needs chromium"]
fn an_image_reloaded_within_its_life_comes_from_the_browsers_cache_or_costs_a_304() {
    let viewer = Viewer::start(1280, 900);
    viewer.look();
    let first = viewer.transferred();
    assert!(first.iter().all(|bytes| *bytes > 20_000), "{first:?}");
    viewer.browser.run("document.documentElement.dataset.old = 'yes'; location.reload()");
    viewer.browser.wait_for("html:not([data-old]) [data-card=permanent][data-state=shown]");
    for card in LASTING {
        viewer.wait_for(card, "shown");
        assert_eq!(viewer.natural_size(card), json!([430, 430]), "{card}");
    }
    let again = viewer.transferred();
    assert!(again.iter().all(|bytes| *bytes < 2_000), "no picture came again: {again:?}");
}

#[test]
#[ignore = "needs chromium"]
fn no_browser_keeps_an_image_beyond_its_tickets_life() {
    let viewer = Viewer::start(1280, 900);
    viewer.look();
    let src = viewer.browser.run("return document.querySelector('[data-card=brief] img').src");
    let fetch = |mark: &str| format!("fetch({src}).then((r) => document.documentElement.dataset.{mark} = r.status)");
    viewer.browser.run(&fetch("early"));
    viewer.browser.wait_for("html[data-early='200']");
    viewer.wait_for("brief", "gone");
    viewer.browser.run(&fetch("late"));
    viewer.browser.wait_for("html[data-late='404']");
    // In a document of its own, since a page shows again what it has shown.
    viewer.look();
    viewer.browser.run(&format!(
        "const image = new Image();
         image.onload = () => document.documentElement.dataset.dead = 'shown';
         image.onerror = () => document.documentElement.dataset.dead = 'gone';
         image.src = {src}"
    ));
    viewer.browser.wait_for("html[data-dead='gone']");
}

/// More than the six connections that a browser opens to one host in HTTP/1.1.
const PICTURES: u32 = 12;

/// WeChat, and an app with a page of codes.
async fn page_and_pictures() -> Origin {
    let images = (0..PICTURES).map(|number| format!("<img src=\"{}\">", tickets::target(&tickets::permanent(number))));
    let page = format!("<!doctype html><title>codes</title>{}", images.collect::<String>());
    let picture = qr::draw("http://weixin.qq.com/q/shown").unwrap();
    Origin::start(move |_, head| {
        if head.starts_with("GET /cgi-bin/showqrcode") {
            Answer::of(200, "Content-Type: image/jpg\r\nCache-Control: max-age=604800\r\n", &picture)
        } else if head.starts_with("GET /page ") {
            Answer::of(200, "Content-Type: text/html\r\n", page.as_bytes())
        } else {
            Answer::of(404, "", b"")
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium"]
async fn a_page_and_its_images_come_over_http_2() {
    let origin = page_and_pictures().await;
    let authority = Authority::new();
    let pin = authority.install().pin();
    let proxy = Proxy::with(&origin, |config| {
        authority.configure(config);
        config.forward.app = Some(origin.url().parse().unwrap());
    });
    let url = format!("https://localhost:{}/page", proxy.tls().port());
    let look = move || {
        let browser = Browser::pinning(&pin, 1280, 900);
        browser.open(&url);
        // The page is open when its images have come, or failed.
        let widths = browser.run("return [...document.images].map((image) => image.naturalWidth)");
        let spoken = browser.run(
            "const spoken = (type) => performance.getEntriesByType(type).map((e) => e.nextHopProtocol);
             return [spoken('navigation'), spoken('resource').slice(0, document.images.length)]",
        );
        (widths, spoken)
    };
    let (widths, spoken) = tokio::task::spawn_blocking(look).await.unwrap();
    let pictures = PICTURES as usize;
    assert_eq!(widths, json!(vec![qr::SIDE; pictures]));
    assert_eq!(spoken, json!([["h2"], vec!["h2"; pictures]]));
    assert_eq!(proxy.running.metrics().totals().misses, u64::from(PICTURES));
    assert_eq!(proxy.running.metrics().tls_handshakes_failed.get(), 0);
}
