//! Addresses, networks and URLs.

use super::super::node::shorten;
use super::{Refusal, refined, refuse};
use crate::config::decode::Decoder;
use crate::config::node::Node;
use crate::config::settings::Format;
use crate::units::net::parse_network;

refined! {
    /// The URL of a server: `http`, `https` or `h2c`, and a host.
    ServerUrl: String => String, "URL", |text| server_url(&text).map(|()| text)
}

fn server_url(text: &str) -> Result<(), Refusal> {
    const HELP: &str = "write scheme, host and port, such as http://10.0.0.7:8080";
    let shown = shorten(text);
    let Some((scheme, rest)) = text.split_once("://") else {
        return refuse(format!("`{shown}` has no scheme"), format!("write http://{shown}"));
    };
    if !["http", "https", "h2c"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
    {
        return refuse(
            format!("the scheme `{scheme}` is not understood"),
            "write http://, https:// or h2c://",
        );
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return refuse(
            "user and password in a URL are not passed on",
            "take them out; the `headers` middleware can set Authorization",
        );
    }
    let Ok(uri) = format!("http://{rest}").parse::<http::Uri>() else {
        return refuse(format!("`{shown}` is no URL"), HELP);
    };
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return refuse(format!("`{shown}` has no host"), HELP);
    }
    if authority.len() > host.len() && uri.port_u16().is_none() {
        return refuse(format!("`{shown}`: the port must be a number from 1 to 65535"), HELP);
    }
    Ok(())
}

refined! {
    /// The path and query of a health check, without scheme and host.
    HealthPath: String => String, "path", |text| {
        if text.contains("://") || text.starts_with("//") {
            return refuse(
                format!("`{}` names a host", shorten(&text)),
                "write the path only, such as /health; `scheme`, `hostname` and `port` are keys of their own",
            );
        }
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return refuse(format!("`{}` is no path", shorten(&text)), "write a path such as /health");
        }
        Ok(text)
    }
}

refined! {
    /// The scheme of a health check.
    HealthScheme: String => String, "http or https", |text| {
        if !["", "http", "https", "h2c"].contains(&text.as_str()) {
            return refuse(format!("the scheme `{}` is not understood", shorten(&text)), "write http or https");
        }
        Ok(text)
    }
}

refined! {
    /// An address or a network.
    Network: String => String, "address or network", |text| match parse_network(text.trim()) {
        Ok(_) => Ok(text),
        Err(why) => refuse(why, "write an address such as 10.0.0.7, or a network such as 10.0.0.0/8"),
    }
}

refined! {
    /// Bits of an IPv6 prefix.
    Ipv6Prefix: i64 => Option<u8>, "bits", |bits| match u8::try_from(bits) {
        Ok(bits @ 0..=128) => Ok(Some(bits)),
        _ => refuse(format!("{bits} is no length of an IPv6 prefix"), "write a number from 0 to 128, such as 64"),
    }
}

refined! {
    /// A port.
    Port: String => String, "port", |text| match text.parse::<u16>() {
        Ok(1..) => Ok(text),
        _ => refuse(format!("`{}` is no port", shorten(&text)), "write a number from 1 to 65535"),
    }
}

/// What an entry point listens on: `[host]:port`, optionally `/tcp`.
#[derive(Debug)]
pub struct Address;

impl Format<String> for Address {
    fn type_name() -> String {
        "address".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<String> {
        let text = decoder.text(node, "an address")?;
        let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        if protocol.eq_ignore_ascii_case("udp") {
            decoder.unsupported(node.span.clone(), "/udp", "Gantry serves HTTP over TCP only so far");
            return None;
        }
        if !protocol.eq_ignore_ascii_case("tcp") {
            let message = format!(
                "`{}`: the protocol `{}` is not understood",
                decoder.name(),
                shorten(protocol)
            );
            decoder.error(node.span.clone(), message, "leave it out, or write /tcp");
            return None;
        }
        if let Err(Refusal(message, help)) = listen_address(address) {
            decoder.error(node.span.clone(), format!("`{}`: {message}", decoder.name()), help);
            return None;
        }
        Some(text.to_owned())
    }
    fn show(value: &String) -> Option<String> {
        (!value.is_empty()).then(|| value.clone())
    }
}

fn listen_address(text: &str) -> Result<(), Refusal> {
    let shown = shorten(text);
    let Some((host, port)) = text.rsplit_once(':') else {
        let help = match text.parse::<u16>() {
            Ok(_) => format!("write \":{text}\""),
            Err(_) => "write \":8080\" or \"127.0.0.1:8080\"".to_owned(),
        };
        return refuse(format!("`{shown}` has no port"), help);
    };
    if port.parse::<u16>().is_err() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse(
            format!("`{shown}`: the port must be a number from 0 to 65535"),
            "write \":8080\"",
        );
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(host) => {
            host.is_empty()
                || host
                    .split('%')
                    .next()
                    .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
        }
        None => host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    if good {
        return Ok(());
    }
    let help = if host.contains(':') {
        "put an IPv6 address into brackets: \"[::1]:8080\""
    } else {
        "write \":8080\""
    };
    refuse(format!("`{shown}`: the host is not understood"), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls() {
        for good in [
            "http://10.0.0.7:8080",
            "https://model.example.com",
            "h2c://[::1]:9000/base?x=1",
            "HTTP://host",
            "http://under_score:80/",
        ] {
            assert!(server_url(good).is_ok(), "{good}");
        }
        for bad in [
            "10.0.0.7:8080",
            "ftp://host",
            "http://",
            "http:///path",
            "http://user:pw@host",
            "http://host:port",
            "http://host:99999",
            "http://ho st",
            "",
        ] {
            assert!(server_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listen_addresses() {
        for good in [":80", "127.0.0.1:8080", "[::1]:80", "[::]:0", "localhost:80", "[]:80"] {
            assert!(listen_address(good).is_ok(), "{good}");
        }
        for bad in [
            "80", "", ":", ":http", ":70000", "::1:80", "a b:80", "*:80", ":+80", "[::1:80",
        ] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }
}
