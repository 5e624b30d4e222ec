//! A real ACME authority: Pebble, strict and refusing nonces now and then, with the name server that comes with it.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::certificate::Certificate;
use super::peer::peer;
use super::{DEADLINE, Gateway};

/// An authority that may or may not run: its address is known before.
#[derive(Debug)]
pub struct Pebble {
    dir: tempfile::TempDir,
    address: SocketAddr,
    running: Vec<Child>,
    /// How long its certificates are valid, seconds.
    pub validity: u32,
}

/// A name that the authority refuses.
pub const BLOCKED: &str = "blocked.test";

impl Pebble {
    /// Chooses an address; `None` where Pebble is not installed.
    pub fn new() -> Option<Self> {
        if !peer("pebble") || !peer("pebble-challtestsrv") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        Certificate::of(&["127.0.0.1"]).write(dir.path(), "server");
        Some(Self {
            dir,
            address: free(),
            running: Vec::new(),
            validity: 90 * 86400,
        })
    }

    /// The `certificatesResolvers` line of a static file: the resolver `le` with this storage and further keys.
    pub fn resolver(&self, storage: &Path, keys: &str) -> String {
        format!(
            "certificatesResolvers: {{le: {{acme: {{email: a@example.com, caServer: \"https://{}/dir\", \
             caCertificates: [\"{}\"], storage: \"{}\", {keys}}}}}}}",
            self.address,
            self.dir.path().join("server.pem").display(),
            storage.display()
        )
    }

    /// Starts it, to prove names against this gateway. Every name leads to 127.0.0.1.
    pub fn start(&mut self, gateway: &Gateway) {
        let dns = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let manage = free();
        let config = serde_json::json!({"pebble": {
            "listenAddress": self.address.to_string(),
            "managementListenAddress": free().to_string(),
            "certificate": "server.pem",
            "privateKey": "server.key",
            "httpPort": gateway.web().port(),
            "tlsPort": gateway.websecure().port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "domainBlocklist": [BLOCKED],
            "certificateValidityPeriod": self.validity,
        }});
        fs::write(self.dir.path().join("pebble.json"), config.to_string()).unwrap();
        let names = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""];
        let names = names.map(str::to_owned).to_vec();
        let more = [
            "-dns01".to_owned(),
            dns.to_string(),
            "-management".to_owned(),
            manage.to_string(),
        ];
        self.spawn("pebble-challtestsrv", &[names, more.to_vec()].concat(), manage);
        let arguments = ["-config", "pebble.json", "-strict", "-dnsserver"].map(str::to_owned);
        let arguments = [arguments.to_vec(), vec![dns.to_string()]].concat();
        self.spawn("pebble", &arguments, self.address);
    }

    fn spawn(&mut self, name: &str, arguments: &[String], ready: SocketAddr) {
        let log = File::create(self.dir.path().join(format!("{name}.log"))).unwrap();
        let child = Command::new(name)
            .args(arguments)
            .env("PEBBLE_VA_NOSLEEP", "1")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running.push(child);
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(ready).is_err() {
            assert!(Instant::now() < deadline, "{name} is not ready:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Ends it. What it knew is gone, accounts too.
    pub fn stop(&mut self) {
        for mut child in self.running.drain(..) {
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        read("pebble-challtestsrv.log") + &read("pebble.log")
    }

    /// How many orders were made since it was started.
    pub fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(6000);
            eprintln!("--- the log of pebble ---\n{}", log.get(tail..).unwrap_or(&log));
        }
    }
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
