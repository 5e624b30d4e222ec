//! The gateway under test: the real binary, with files and ports of its own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use super::backend::{Answer, Backend};
use super::client::{Client, Request, Tls};
use super::h2::H2;
use super::{DEADLINE, Reply};

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("GANTRY_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_gantry").into(), PathBuf::from)
}

/// Whether the binary under test is ours.
pub fn is_gantry() -> bool {
    std::env::var_os("GANTRY_TEST_BINARY").is_none_or(|name| !name.to_string_lossy().contains("traefik"))
}

/// The first part of the names of metrics.
pub fn prefix() -> &'static str {
    if is_gantry() { "gantry" } else { "traefik" }
}

/// Answers the readiness probes of all gateways of this process.
static READY: LazyLock<Backend> = LazyLock::new(|| Backend::answering(|_| Answer::new(200).body(TOKEN)));
const TOKEN: &str = "ready for tests";

/// Begins the description of a gateway.
pub fn gateway() -> Setup {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fs::create_dir(dir.path().join("conf")).unwrap();
    Setup {
        dir,
        dynamic: String::new(),
        web: Vec::new(),
        websecure: Vec::new(),
        top: Vec::new(),
        metrics: METRICS.into(),
        watch: true,
    }
}

const METRICS: &str = "metrics: {prometheus: {addRoutersLabels: true}}";

/// A gateway that does not run yet. `{dir}` in any YAML stands for its folder.
#[derive(Debug)]
pub struct Setup {
    dir: Arc<tempfile::TempDir>,
    dynamic: String,
    web: Vec<String>,
    websecure: Vec<String>,
    top: Vec<String>,
    metrics: String,
    watch: bool,
}

impl Setup {
    /// Everything goes to one backend.
    pub fn to(self, backend: &Backend) -> Self {
        self.server(&backend.url())
    }

    /// Everything goes to one server.
    pub fn server(self, url: &str) -> Self {
        self.dynamic(&all_to(&[url]))
    }

    /// Everything goes to these backends in turn.
    pub fn balancing(self, backends: &[&Backend]) -> Self {
        let urls: Vec<_> = backends.iter().map(|backend| backend.url()).collect();
        self.dynamic(&all_to(&urls.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// The text of the dynamic file.
    pub fn dynamic(mut self, yaml: &str) -> Self {
        self.dynamic = yaml.into();
        self
    }

    /// A line of YAML under the entry point `web`.
    pub fn web(mut self, line: &str) -> Self {
        self.web.push(line.into());
        self
    }

    /// A line of YAML under the entry point `websecure`.
    pub fn websecure(mut self, line: &str) -> Self {
        self.websecure.push(line.into());
        self
    }

    /// A line of YAML at the top of the static file.
    pub fn top(mut self, line: &str) -> Self {
        self.top.push(line.into());
        self
    }

    /// The `metrics` line of the static file in the place of the usual one.
    pub fn metrics(mut self, line: &str) -> Self {
        self.metrics = line.into();
        self
    }

    /// Changes of files go unnoticed.
    pub fn without_watch(mut self) -> Self {
        self.watch = false;
        self
    }

    /// A file in the gateway's folder.
    pub fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join(name), text).unwrap();
        self
    }

    /// The gateway's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the gateway and waits until it serves its configuration.
    pub fn run(self) -> Gateway {
        self.try_run()
            .unwrap_or_else(|refused| panic!("exit {:?}:\n{}", refused.code, refused.log))
    }

    /// As [`Self::run`], or how the gateway ended instead.
    pub fn try_run(self) -> Result<Gateway, Refused> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.attempt() {
                Ok(started) => return Ok(started),
                // Somebody else took a port between our look and the gateway's.
                Err(refused) if attempts < 5 && refused.log.to_lowercase().contains("in use") => {}
                Err(refused) => return Err(refused),
            }
        }
    }

    fn attempt(&self) -> Result<Gateway, Refused> {
        let ports = Ports::pick();
        let root = self.dir.path().to_owned();
        let fill = |text: &str| text.replace("{dir}", &root.to_string_lossy());
        fs::write(root.join("static.yaml"), fill(&self.static_yaml(&ports))).unwrap();
        if !self.dynamic.is_empty() {
            fs::write(root.join("conf/dynamic.yaml"), fill(&self.dynamic)).unwrap();
        }
        fs::write(root.join("conf/zz-ready.yaml"), ready_yaml(0)).unwrap();
        let log = File::create(root.join("log.txt")).unwrap();
        let child = Command::new(binary())
            .arg(format!("--configFile={}", root.join("static.yaml").display()))
            .current_dir(&root)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut gateway = Gateway {
            child,
            dir: self.dir.clone(),
            ports,
            generation: AtomicUsize::new(0),
        };
        let deadline = Instant::now() + DEADLINE;
        while !gateway.is_ready(0) {
            if let Some(status) = gateway.child.try_wait().unwrap() {
                return Err(Refused {
                    code: status.code(),
                    log: gateway.log(),
                });
            }
            assert!(Instant::now() < deadline, "not ready in time:\n{}", gateway.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(gateway)
    }

    fn static_yaml(&self, ports: &Ports) -> String {
        let mut yaml = String::from("global: {checkNewVersion: false, sendAnonymousUsage: false}\n");
        yaml += "log: {level: INFO}\nping: {}\n";
        let watch = self.watch;
        yaml += "providers: {providersThrottleDuration: 50ms, file: {directory: \"{dir}/conf\", ";
        let _infallible = writeln!(yaml, "watch: {watch}}}}}\n{}", self.metrics);
        for line in &self.top {
            let _infallible = writeln!(yaml, "{line}");
        }
        yaml += "entryPoints:\n";
        let none = Vec::new();
        let points = [
            ("web", ports.web, &self.web),
            ("websecure", ports.websecure, &self.websecure),
            ("ready", ports.ready, &none),
            ("traefik", ports.admin, &none),
        ];
        for (name, address, lines) in points {
            let _infallible = writeln!(yaml, "  {name}:\n    address: \"{address}\"");
            if name.starts_with("web") {
                // So that the routers of a test leave the other entry points alone.
                yaml += "    asDefault: true\n";
            }
            for line in lines {
                let _infallible = writeln!(yaml, "    {line}");
            }
        }
        yaml
    }
}

/// The dynamic file that sends everything to these servers in turn.
pub fn all_to(urls: &[&str]) -> String {
    let servers: Vec<_> = urls.iter().map(|url| format!("{{url: \"{url}\"}}")).collect();
    format!(
        "http:\n  routers: {{r: {{rule: \"PathPrefix(`/`)\", service: s}}}}\n  \
         services: {{s: {{loadBalancer: {{servers: [{}]}}}}}}\n",
        servers.join(", ")
    )
}

fn ready_yaml(generation: usize) -> String {
    format!(
        "http:\n  routers:\n    zzready: {{entryPoints: [ready], rule: \"Path(`/__ready/{generation}`)\", \
         service: zzready}}\n  services:\n    zzready: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n",
        READY.url()
    )
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    web: SocketAddr,
    websecure: SocketAddr,
    ready: SocketAddr,
    admin: SocketAddr,
}

impl Ports {
    fn pick() -> Self {
        let held: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut free = held.iter().map(|listener| listener.local_addr().unwrap());
        let mut next = || free.next().unwrap();
        Self {
            web: next(),
            websecure: next(),
            ready: next(),
            admin: next(),
        }
    }
}

/// A gateway that ended instead of serving.
#[derive(Debug)]
pub struct Refused {
    pub code: Option<i32>,
    pub log: String,
}

/// A running gateway; it is killed when this goes out of scope.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    dir: Arc<tempfile::TempDir>,
    ports: Ports,
    generation: AtomicUsize,
}

impl Gateway {
    /// The address of the entry point `web`.
    pub fn web(&self) -> SocketAddr {
        self.ports.web
    }

    /// The address of the entry point `websecure`.
    pub fn websecure(&self) -> SocketAddr {
        self.ports.websecure
    }

    /// The address of the admin entry point.
    pub fn admin_address(&self) -> SocketAddr {
        self.ports.admin
    }

    /// The gateway's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Begins a request on a new connection to `web`.
    pub fn request(&self, method: &str, target: &str) -> Request {
        Request::new(self.ports.web, method, target)
    }

    pub fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    pub fn post(&self, target: &str, body: impl Into<Vec<u8>>) -> Request {
        self.request("POST", target).body(body)
    }

    /// A connection to `web` for raw bytes.
    pub fn client(&self) -> Client {
        Client::connect(self.ports.web)
    }

    /// A client that speaks HTTP/2 with prior knowledge to `web`.
    pub fn h2(&self) -> H2 {
        H2::connect(self.ports.web)
    }

    /// Describes a TLS connection to `websecure`.
    pub fn tls(&self, name: &str) -> Tls {
        Tls::new(self.ports.websecure, name)
    }

    /// What the admin entry point answers.
    pub fn admin(&self, target: &str) -> Reply {
        Request::new(self.ports.admin, "GET", target).send()
    }

    /// As [`Self::admin`], with a header field.
    pub fn admin_with(&self, target: &str, name: &str, value: &str) -> Reply {
        Request::new(self.ports.admin, "GET", target).header(name, value).send()
    }

    /// As [`Self::admin`]; `None` when nobody answers.
    pub fn try_admin(&self, target: &str) -> Option<Reply> {
        Request::new(self.ports.admin, "GET", target).try_send().ok()
    }

    /// The value of the series whose name and labels contain all `parts`; `None` when there is none.
    pub fn metric(&self, parts: &[&str]) -> Option<f64> {
        let text = self.admin("/metrics").text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut found = lines.filter(|line| parts.iter().all(|part| line.contains(part)));
        let value = found.next().and_then(|line| line.rsplit(' ').next()?.parse().ok());
        assert!(found.next().is_none(), "{parts:?} is ambiguous:\n{text}");
        value
    }

    /// Replaces the dynamic file and waits until the gateway has read its folder again.
    pub fn reload(&self, yaml: &str) {
        self.edit(yaml);
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        self.write("conf/zz-ready.yaml", &ready_yaml(generation));
        crate::assert_eventually!(self.is_ready(generation), "reload:\n{}", self.log());
    }

    /// Replaces the dynamic file.
    pub fn edit(&self, yaml: &str) {
        self.write("conf/dynamic.yaml", yaml);
    }

    /// Replaces a file in one step.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.dir().join(".new");
        fs::write(&beside, text.replace("{dir}", &self.dir().to_string_lossy())).unwrap();
        fs::rename(beside, self.dir().join(name)).unwrap();
    }

    /// Sends a signal by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status();
        assert!(kill.unwrap().success());
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        crate::assert_eventually!(!self.is_alive());
        self.child.wait().unwrap()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// What it wrote to standard output and error.
    pub fn log(&self) -> String {
        fs::read(self.dir().join("log.txt"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn is_ready(&self, generation: usize) -> bool {
        TcpStream::connect(self.ports.ready).is_ok()
            && Request::new(self.ports.ready, "GET", &format!("/__ready/{generation}"))
                .try_send()
                .is_ok_and(|reply| reply.text() == TOKEN)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(8000);
            eprintln!("--- the gateway's log ---\n{}", log.get(tail..).unwrap_or(&log));
        }
    }
}

/// Runs the binary with arguments to its end.
pub fn run(arguments: &[&str], stdin: &str) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(binary())
        .args(arguments)
        .env_remove("GANTRY_CONFIGFILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The end of the pipe is all that a command that reads nothing sees.
    let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}
