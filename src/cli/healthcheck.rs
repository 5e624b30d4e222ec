//! `gantry healthcheck`: asks `/ping`, for containers that hold nothing but this binary.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::config;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks and reports; exit 0 for 200, 1 for everything else.
#[must_use]
pub fn run(url: Option<&str>, static_file: Option<&Path>) -> ExitCode {
    let (address, path) = match url.map_or_else(|| from_file(static_file), from_url) {
        Ok(found) => found,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    match ask(&address, &path) {
        Ok(200) => {
            println!("OK: http://{address}{path}");
            ExitCode::SUCCESS
        }
        Ok(status) => {
            eprintln!("Bad healthcheck status: {status} from http://{address}{path}");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("Error calling healthcheck: http://{address}{path}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn from_url(url: &str) -> Result<(String, String), String> {
    let uri: ::http::Uri = url.parse().map_err(|e| format!("`{url}` is no URL: {e}"))?;
    let authority = uri.authority().ok_or_else(|| format!("`{url}` has no host"))?;
    let address = match authority.port_u16() {
        Some(_) => authority.as_str().to_owned(),
        None => format!("{}:80", authority.as_str()),
    };
    Ok((address, uri.path().to_owned()))
}

/// The address of the entry point that `ping` names.
fn from_file(file: Option<&Path>) -> Result<(String, String), String> {
    let file = file.ok_or("there is no static configuration: name it with --configFile, or give --url")?;
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read `{}`: {e}", file.display()))?;
    let settings = config::decode_static(&file.display().to_string(), &text).value;
    let ping = settings
        .ping
        .ok_or("please enable `ping` in the static configuration to use healthcheck")?;
    let address = match settings.entry_points.get(&ping.entry_point) {
        Some(entry_point) => entry_point.address.split('/').next().unwrap_or_default().to_owned(),
        None if ping.entry_point == "traefik" => ":8080".to_owned(),
        None => {
            return Err(format!(
                "ping.entryPoint: there is no entry point `{}`",
                ping.entry_point
            ));
        }
    };
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| format!("`{address}` is no address"))?;
    let host = if matches!(host, "" | "0.0.0.0" | "[::]") {
        "127.0.0.1"
    } else {
        host
    };
    Ok((format!("{host}:{port}"), "/ping".to_owned()))
}

fn ask(address: &str, path: &str) -> std::io::Result<u16> {
    let at = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut head = Vec::new();
    stream.take(64).read_to_end(&mut head)?;
    let status = std::str::from_utf8(&head)
        .ok()
        .and_then(|h| h.split(' ').nth(1))
        .and_then(|s| s.parse().ok());
    status.ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}
