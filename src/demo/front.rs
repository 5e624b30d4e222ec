//! The demo's front door: a folder with two files, the stand-in models, and the gateway itself.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::model_server::{self};
use super::phantom;
use super::segment::ModelVersion;
use crate::{config, gateway, observe};

/// Where the demo listens.
const FRONT: &str = "127.0.0.1:8000";
/// Where it answers `/metrics`, `/sd` and `/ping`.
const ADMIN: &str = "127.0.0.1:8080";
/// How long the front door may take to open before the curl lines are printed anyway.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the demo until it is told to stop.
///
/// # Errors
/// When a port is taken or the folder cannot be written.
pub fn run(workers: Option<usize>) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let models = start_models()?;
    let settings = folder.write(models)?;
    let decoded = config::decode_static(&settings.display().to_string(), &fs::read_to_string(&settings)?);
    let log = observe::log::init(&(&decoded.value.log).into()).context("cannot set the log up")?;
    let text = introduction(&folder.path);
    thread::Builder::new()
        .name("gantry-demo".to_owned())
        .spawn(move || announce(&text))?;
    gateway::run(gateway::Options {
        settings: decoded.value,
        workers,
        log: Some(log),
    })
}

/// Prints how to use the demo once it answers.
fn announce(text: &str) {
    let end = Instant::now() + PATIENCE;
    let front: SocketAddr = FRONT.parse().expect("the demo's address is one");
    while TcpStream::connect_timeout(&front, Duration::from_millis(200)).is_err() && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    #[expect(clippy::print_stdout, reason = "the demo tells a person what to do")]
    {
        println!("{text}");
    }
}

fn introduction(folder: &Path) -> String {
    let mut text = String::new();
    let dynamic = folder.join("dynamic").join("mri.yaml");
    let phantom = folder.join("head.nii.gz");
    let mask = folder.join("mask.nii.gz");
    let _ = write!(
        text,
        "
Gantry's demo: a front door on http://{FRONT}, metrics on http://{ADMIN}/metrics

A head goes in, its mask comes out; X-Model-Dice says how good it is (user admin, password test):

curl -u admin:test --data-binary @{phantom} -o {mask} -D - http://localhost:8000/segment

Send some more, and see how the two versions share the work and how accurate they are:

curl -s -o /dev/null -u admin:test --data-binary @{phantom} \"http://localhost:8000/segment?n=[1-20]\"

curl -s http://{ADMIN}/metrics | grep ^model_

Each model has metrics of its own; Prometheus finds them here, a new version with the reload:

curl -s http://{ADMIN}/sd

Edit the weights in {dynamic} and watch the shares follow.
Ctrl-C ends the demo.
",
        phantom = phantom.display(),
        mask = mask.display(),
        dynamic = dynamic.display(),
    );
    text
}

/// Starts both versions on ports of their own, on a thread of their own.
fn start_models() -> anyhow::Result<[SocketAddr; 2]> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("gantry-demo-model")
        .build()?;
    let listeners = runtime.block_on(async {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok::<_, std::io::Error>([first, second])
    })?;
    let addresses = [listeners[0].local_addr()?, listeners[1].local_addr()?];
    thread::Builder::new()
        .name("gantry-demo-models".to_owned())
        .spawn(move || {
            let [first, second] = listeners;
            runtime.block_on(async {
                tokio::join!(
                    model_server::serve(first, ModelVersion::V1, std::future::pending()),
                    model_server::serve(second, ModelVersion::V2, std::future::pending())
                )
            });
        })?;
    Ok(addresses)
}

/// The demo's files; they go when the demo ends.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("gantry-demo-{}", std::process::id()));
        fs::create_dir_all(path.join("dynamic")).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Writes the phantom and both files; gives the static one.
    fn write(&self, models: [SocketAddr; 2]) -> anyhow::Result<PathBuf> {
        phantom::write_phantom(&self.path.join("head.nii.gz"), 1)?;
        let directory = self.path.join("dynamic");
        fs::write(directory.join("mri.yaml"), dynamic(models))?;
        let file = self.path.join("gantry.yaml");
        fs::write(&file, static_file(&directory))?;
        Ok(file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn static_file(directory: &Path) -> String {
    format!(
        "# The demo's static configuration: read once at the start.
entryPoints:
  web:
    address: \"{FRONT}\"
  traefik:
    address: \"{ADMIN}\"

providers:
  providersThrottleDuration: 200ms
  file:
    directory: \"{}\"
    watch: true

ping: {{}}
metrics:
  prometheus:
    addRoutersLabels: true
log:
  level: WARN
",
        directory.display()
    )
}

fn dynamic([first, second]: [SocketAddr; 2]) -> String {
    format!(
        "# The demo's dynamic configuration. Save it, and the next request sees the change.
http:
  routers:
    segment:
      rule: \"(Host(`mri.example.com`) || Host(`localhost`)) && PathPrefix(`/segment`)\"
      service: mri
      middlewares: [auth, ratelimit]

  middlewares:
    auth:
      basicAuth:
        users:
          - \"admin:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/\" # the password is: test
    ratelimit:
      rateLimit: {{ average: 100, burst: 50 }}

  services:
    mri: # the canary: move the weights
      weighted:
        services:
          - {{ name: mri-v1, weight: 90 }}
          - {{ name: mri-v2, weight: 10 }}
    mri-v1:
      model: {{ name: mri-segmentation, version: \"1\" }}
      accuracy:
        - {{ from: header, name: X-Model-Dice, label: dice }}
      serverTiming: {{ stages: [segment] }}
      metrics: {{ path: /metrics }}
      loadBalancer:
        servers:
          - url: \"http://{first}\"
        healthCheck: {{ path: /health, interval: \"10s\" }}
    mri-v2:
      model: {{ name: mri-segmentation, version: \"2\" }}
      accuracy:
        - {{ from: header, name: X-Model-Dice, label: dice }}
      serverTiming: {{ stages: [segment] }}
      metrics: {{ path: /metrics }}
      loadBalancer:
        servers:
          - url: \"http://{second}\"
        healthCheck: {{ path: /health, interval: \"10s\" }}
"
    )
}
