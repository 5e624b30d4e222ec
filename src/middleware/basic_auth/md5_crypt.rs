//! md5-crypt, the password hash behind `$1$` and `$apr1$`: a thousand rounds of MD5, some 200 µs.

use md5::{Digest as _, Md5};

/// The alphabet of crypt(3), least significant bits first.
pub const CRYPT64: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The check value of md5-crypt (Poul-Henning Kamp's algorithm, FreeBSD 1994); Apache changed only the magic.
#[must_use]
pub fn md5_crypt(magic: &[u8], salt: &[u8], password: &[u8]) -> [u8; 22] {
    let inner = Md5::new()
        .chain_update(password)
        .chain_update(salt)
        .chain_update(password)
        .finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    let mut left = password.len();
    while left > 0 {
        outer.update(&inner[..left.min(16)]);
        left = left.saturating_sub(16);
    }
    let mut bits = password.len();
    while bits > 0 {
        // The original wrote a zero byte here where it meant a byte of the digest; it has been part of it since.
        let byte = if bits & 1 == 1 { &[0][..] } else { &password[..1] };
        outer.update(byte);
        bits >>= 1;
    }
    let mut digest = outer.finalize();
    for round in 0..1000 {
        let mut hash = Md5::new();
        hash.update(if round & 1 == 1 { password } else { &digest[..] });
        if round % 3 != 0 {
            hash.update(salt);
        }
        if round % 7 != 0 {
            hash.update(password);
        }
        hash.update(if round & 1 == 1 { &digest[..] } else { password });
        digest = hash.finalize();
    }
    encode_md5(&digest.into())
}

fn encode_md5(digest: &[u8; 16]) -> [u8; 22] {
    let mut out = [0; 22];
    for (group, [a, b, c]) in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]]
        .into_iter()
        .enumerate()
    {
        let bits = u32::from(digest[a]) << 16 | u32::from(digest[b]) << 8 | u32::from(digest[c]);
        put64(bits, &mut out[group * 4..group * 4 + 4]);
    }
    put64(u32::from(digest[11]), &mut out[20..]);
    out
}

fn put64(mut bits: u32, out: &mut [u8]) {
    for slot in out {
        *slot = CRYPT64[(bits & 63) as usize];
        bits >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl passwd -1` and `-apr1`; the tests of [`super::super::htpasswd`] have more.
    #[test]
    fn openssl_agrees() {
        let check = |magic: &str, salt: &str, password: &str, expected: &str| {
            let digest = md5_crypt(magic.as_bytes(), salt.as_bytes(), password.as_bytes());
            assert_eq!(std::str::from_utf8(&digest), Ok(expected));
        };
        check("$1$", "abcd", "hello world", "ClBW/xSEVLcxkw/mPCQ88/");
        check("$apr1$", "12345678", "x", "zbBEMgfXu4mAHPrplrtNt.");
    }
}
