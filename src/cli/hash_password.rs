//! `gantry hash-password`: bcrypt for `basicAuth`.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, bail};

/// bcrypt looks at so many bytes; a longer password would match by its beginning.
const LONGEST: usize = 72;

/// Reads a password from standard input and prints its hash.
///
/// # Errors
/// When there is no password, or one that bcrypt cannot tell apart from others.
pub fn run(user: Option<&str>, cost: u32) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("Password (it is shown as you type; end with Enter):");
    }
    let mut line = String::new();
    stdin
        .lock()
        .read_line(&mut line)
        .context("cannot read the password from standard input")?;
    let password = line.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        bail!(
            "error: there is no password on standard input\n  = help: printf '%s' 'the password' | gantry hash-password alice"
        );
    }
    if password.len() > LONGEST || password.contains('\0') {
        bail!("error: bcrypt reads {LONGEST} bytes at most and stops at a NUL\n  = help: choose a shorter password");
    }
    if user.is_some_and(|user| user.is_empty() || user.contains(':')) {
        bail!("error: a user name is not empty and has no colon");
    }
    let hash = bcrypt::hash(password, cost).context("bcrypt failed")?;
    let hash = hash.replacen("$2b$", "$2y$", 1);
    match user {
        Some(user) => println!("{user}:{hash}"),
        None => println!("{hash}"),
    }
    Ok(())
}
