//! A headless Chromium, driven as the W3C's `WebDriver` says. Needs Debian's `chromium` and `chromium-driver`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than any script here waits.
const PATIENCE: Duration = Duration::from_millis(PATIENCE_MILLIS);
const PATIENCE_MILLIS: u64 = 90_000;

/// Resolves when the selector finds something.
const APPEARANCE: &str = "
    const [selector, done] = arguments;
    const look = () => document.querySelector(selector) && (watcher.disconnect(), done(true));
    const watcher = new MutationObserver(look);
    watcher.observe(document, { attributes: true, childList: true, subtree: true });
    look();";

/// A browser of its own, with an empty profile. Ends when dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: TempDir,
}

impl Browser {
    /// Starts a browser whose pages are `width` by `height` pixels.
    pub fn start(width: u32, height: u32) -> Self {
        Self::with(width, height, &[])
    }

    /// The same, which believes servers that have the key of `pin`, whoever signed their certificate.
    pub fn pinning(pin: &str, width: u32, height: u32) -> Self {
        Self::with(width, height, &[&format!("--ignore-certificate-errors-spki-list={pin}")])
    }

    fn with(width: u32, height: u32, flags: &[&str]) -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().expect("chromedriver is installed");
        // The pipe stays with the driver, which may have more to say.
        let port = announced_port(driver.stdout.as_mut().expect("a pipe"));
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self { driver, port, session: String::new(), profile };
        let profile_flag = format!("--user-data-dir={}", browser.profile.path().display());
        let common = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP shop.example 127.0.0.1",
            &profile_flag,
        ];
        let arguments = [&common, flags].concat();
        let capabilities = json!({
            "browserName": "chrome",
            "timeouts": { "script": PATIENCE_MILLIS },
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let started = browser.call("POST", "/session", &json!({ "capabilities": { "alwaysMatch": capabilities } }));
        started["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        browser.resize(width, height);
        browser
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// What `script` returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits for an element that fits `selector`.
    pub fn wait_for(&self, selector: &str) {
        self.post("/execute/async", &json!({ "script": APPEARANCE, "args": [selector] }));
    }

    pub fn click(&self, selector: &str) {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        let element = found.as_object().and_then(|ids| ids.values().next()).and_then(Value::as_str).expect(selector);
        self.post(&format!("/element/{element}/click"), &json!({}));
    }

    pub fn resize(&self, width: u32, height: u32) {
        let parameters = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &parameters);
    }

    /// Lets pages see a preference of the user's, such as `prefers-color-scheme`.
    pub fn prefer(&self, name: &str, value: &str) {
        let features = json!({ "features": [{ "name": name, "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// Presses a key that writes nothing, such as `Tab`, whose code is `code`.
    pub fn press(&self, key: &str, code: u32) {
        for event in ["rawKeyDown", "keyUp"] {
            let parameters = json!({ "type": event, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.devtools("Input.dispatchKeyEvent", &parameters);
        }
    }

    /// Role and name of everything that a screen reader is told.
    pub fn told_to_readers(&self) -> Vec<(String, String)> {
        self.devtools("Accessibility.enable", &json!({}));
        let tree = self.devtools("Accessibility.getFullAXTree", &json!({}));
        let text = |node: &Value, part: &str| node[part]["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().expect("a list").iter().filter(|node| node["ignored"] != true);
        nodes.map(|node| (text(node, "role"), text(node, "name"))).collect()
    }

    /// Waits until `script` returns true.
    pub fn until(&self, script: &str) {
        let waiting = format!(
            "const done = arguments[0]; const check = () => {{ {script} }};
             const look = () => check() === true ? done(true) : setTimeout(look, 20); look();"
        );
        self.post("/execute/async", &json!({ "script": waiting, "args": [] }));
    }

    /// What went to the console since the last look.
    pub fn console(&self) -> Vec<Value> {
        self.post("/se/log", &json!({ "type": "browser" })).as_array().cloned().expect("a list")
    }

    /// Keeps a picture of the whole page under `target/artifacts`.
    pub fn keep_picture(&self, name: &str) {
        let shot = self.devtools("Page.captureScreenshot", &json!({ "captureBeyondViewport": true }));
        let png = STANDARD.decode(shot["data"].as_str().expect("a picture")).unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("artifacts");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name).with_extension("png"), png).unwrap();
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}{command}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.exchange(method, path, &body.to_string()).expect("the driver answers");
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<Value> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let fields = format!("Host: localhost\r\nContent-Length: {}\r\n", body.len());
        stream.write_all(format!("{method} {path} HTTP/1.1\r\n{fields}\r\n{body}").as_bytes())?;
        let mut answer = BufReader::new(stream);
        let length = content_length(&mut answer)?;
        Ok(serde_json::from_reader(answer.take(length))?)
    }
}

/// Reads a head.
fn content_length(answer: &mut impl BufRead) -> std::io::Result<u64> {
    let mut length = 0;
    let mut line = String::new();
    while answer.read_line(&mut line)? > 2 {
        if let Some((name, value)) =
            line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse().map_err(|_| std::io::Error::other(name.to_owned()))?;
        }
        line.clear();
    }
    Ok(length)
}

/// The driver says so on its standard output.
fn announced_port(output: impl Read) -> u16 {
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("started successfully on port")).expect("a port");
    line.trim_end_matches('.').rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a port")
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its Chromium with the session; killed, it would leave it behind.
        let _ = self.exchange("DELETE", &format!("/session/{}", self.session), "");
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
