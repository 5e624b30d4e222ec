//! A real Prometheus that scrapes what is under test.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::DEADLINE;
use super::client::Request;

/// A running Prometheus; it is killed when this goes out of scope.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts it with a configuration and further arguments; `None` where it is not installed.
    pub fn start(config: &str, arguments: &[&str]) -> Option<Self> {
        let found = Command::new("prometheus").arg("--version").output();
        if found.is_err() {
            return None;
        }
        // Somebody else may take the port between our look and its own.
        (0..5)
            .find_map(|_| Self::attempt(config, arguments))
            .map_or_else(|| panic!("prometheus does not start"), Some)
    }

    fn attempt(config: &str, arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .args(arguments)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log.txt")).unwrap())
            .spawn()
            .unwrap();
        let mut started = Self { child, dir, address };
        let deadline = Instant::now() + DEADLINE;
        loop {
            let ready = Request::new(address, "GET", "/-/ready").try_send();
            if ready.is_ok_and(|reply| reply.status == 200) {
                return Some(started);
            }
            if started.child.try_wait().unwrap().is_some() {
                assert!(started.log().contains("in use"), "{}", started.log());
                return None;
            }
            assert!(Instant::now() < deadline, "not ready in time:\n{}", started.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// The series that an instant query finds: labels and value.
    pub fn query(&self, query: &str) -> Vec<(serde_json::Value, f64)> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let reply = Request::new(self.address, "POST", "/api/v1/query")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(format!("query={encoded}"))
            .send();
        let answer: serde_json::Value = serde_json::from_slice(&reply.body.bytes).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().unwrap().iter();
        series
            .map(|series| {
                let value = series["value"][1].as_str().unwrap();
                (series["metric"].clone(), value.parse().unwrap())
            })
            .collect()
    }

    /// The value of the one series that an instant query finds.
    pub fn value(&self, query: &str) -> Option<f64> {
        let found = self.query(query);
        assert!(found.len() < 2, "{query}: {found:?}");
        found.first().map(|(_, value)| *value)
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log.txt")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Prometheus' log ---\n{}", self.log());
        }
    }
}
