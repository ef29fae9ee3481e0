//! Names of images: as Docker shows them, and as they are written out in full.
//!
//! # References
//! The grammar of github.com/distribution/reference; OCI image specification, `annotations.md`, `org.opencontainers.image.ref.name`.

use crate::digest::clipped;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

const DOCKER: &str = "docker.io";
const LIBRARY: &str = "library/";

/// A repository and a tag, like `docker.io/library/debian:12`; shown as Docker does, like `debian:12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    domain: String,
    path: String,
    tag: String,
}

impl Name {
    /// Like `docker.io/library/debian:12`.
    pub fn full(&self) -> String {
        format!("{}/{}:{}", self.domain, self.path, self.tag)
    }

    /// Like `debian`: without the tag, and without what Docker adds by itself.
    pub fn repository(&self) -> String {
        if self.domain == DOCKER {
            self.path.strip_prefix(LIBRARY).unwrap_or(&self.path).to_owned()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// Like `12`; `latest` where none was given.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.repository(), self.tag)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why| Error::InvalidName { name: clipped(text), why };
        if text.contains('@') {
            return Err(invalid("it has a digest"));
        }
        let (rest, tag) = match text.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, tag),
            _ => (text, "latest"),
        };
        let (domain, path) = match rest.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.contains(|letter: char| letter.is_ascii_uppercase()) =>
            {
                (first, path)
            }
            _ => (DOCKER, rest),
        };
        let domain = if domain == "index.docker.io" { DOCKER } else { domain };
        let path = if domain == DOCKER && !path.contains('/') {
            format!("{LIBRARY}{path}")
        } else {
            path.to_owned()
        };
        if !is_domain(domain) {
            return Err(invalid("its registry is no host name"));
        }
        if !path.split('/').all(is_component) {
            return Err(invalid("its repository must be of small letters, digits and single separators"));
        }
        if domain.len() + path.len() > 255 {
            return Err(invalid("it is longer than 255 bytes"));
        }
        if !is_tag(tag) {
            return Err(invalid("its tag must be 1 to 128 letters, digits, '_', '.' and '-'"));
        }
        Ok(Self { domain: domain.into(), path, tag: tag.into() })
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) && host.split('.').all(label)
}

/// Small letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separator = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-');
    text.bytes().next().is_some_and(letter)
        && text.bytes().last().is_some_and(letter)
        && text
            .split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit())
            .all(separator)
}

pub(crate) fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// A name as a source gives it: what Docker would call it, or the text itself where it is only a tag or a free name of a layout.
pub(crate) fn shown(text: &str) -> Result<String> {
    let free = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:@/+".contains(&byte);
    if text.is_empty() || text.len() > 512 || !text.bytes().all(free) {
        return Err(Error::InvalidName {
            name: clipped(text),
            why: "it has other than letters, digits and -._:@/+",
        });
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_and_written_out() {
        for (text, short, full) in [
            ("debian", "debian:latest", "docker.io/library/debian:latest"),
            ("debian:12", "debian:12", "docker.io/library/debian:12"),
            ("docker.io/library/debian:12", "debian:12", "docker.io/library/debian:12"),
            ("index.docker.io/debian", "debian:latest", "docker.io/library/debian:latest"),
            ("me/web", "me/web:latest", "docker.io/me/web:latest"),
            ("localhost/web", "localhost/web:latest", "localhost/web:latest"),
            ("localhost:5000/a/b__c:1.0_x", "localhost:5000/a/b__c:1.0_x", "localhost:5000/a/b__c:1.0_x"),
            ("ghcr.io/a/b---c", "ghcr.io/a/b---c:latest", "ghcr.io/a/b---c:latest"),
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!((name.to_string().as_str(), name.full().as_str()), (short, full));
            assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a/".repeat(200) + "a";
        for bad in [
            "",
            ":tag",
            "Debian",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:-x",
            "a b",
            "a__-b",
            "a..b",
            "../a",
            "a:x/y",
            "-a.io/b",
            "a.io:/b",
            "a.io:x/b",
            "a@sha256:0",
            "a\n",
            "é",
            &long,
            &format!("a:{}", "x".repeat(129)),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn free_names_of_layouts_are_taken_as_they_are() {
        for fine in ["latest", "v1.0+git", "ghcr.io/a/b:c"] {
            assert_eq!(shown(fine).unwrap(), fine);
        }
        for bad in ["", "a b", "a\u{1b}[1m", "a\n"] {
            assert!(shown(bad).is_err());
        }
    }
}
