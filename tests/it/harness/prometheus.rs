//! A real Prometheus that scrapes what is under test.

use serde_json::Value;

use super::client::Request;
use super::peer::Peer;

/// A running Prometheus; it is killed when this goes out of scope.
#[derive(Debug)]
pub struct Prometheus(Peer);

impl Prometheus {
    /// Starts it with a configuration and further arguments; `None` where it is not installed.
    pub fn start(config: &str, arguments: &[&str]) -> Option<Self> {
        let arguments = [&["--storage.tsdb.path=data"], arguments].concat();
        Peer::start("prometheus", ("prometheus.yml", config), &arguments).map(Self)
    }

    /// The `data` of what `/api/v1/PATH` answers; `form` is the body of a POST, and nothing is a GET.
    pub fn api(&self, path: &str, form: &str) -> Value {
        let method = if form.is_empty() { "GET" } else { "POST" };
        let mut request = Request::new(self.0.address(), method, &format!("/api/v1/{path}"));
        if !form.is_empty() {
            request = request
                .header("Content-Type", "application/x-www-form-urlencoded")
                .body(form);
        }
        let reply = request.send();
        let mut answer: Value = serde_json::from_slice(&reply.body.bytes).unwrap();
        assert_eq!(answer["status"], "success", "{path} {form}: {answer}");
        answer["data"].take()
    }

    /// The series that an instant query finds: labels and value.
    pub fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let found = self.api("query", &format!("query={encoded}"));
        let series = found["result"].as_array().unwrap().iter();
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

    /// What it scrapes at present: `labels`, `scrapeUrl`, `health` and more of each target.
    pub fn targets(&self) -> Vec<Value> {
        let targets = self.api("targets?state=active", "");
        targets["activeTargets"].as_array().unwrap().clone()
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        self.0.log()
    }
}
