//! What a repository is called.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// The hub's own limit.
const MAX_ID_BYTES: usize = 96;

/// A model's repository and one of its revisions: `owner/name`, or `owner/name@revision` for a branch, a tag or a
/// commit. Without one it is `main`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoId {
    id: String,
    revision: String,
}

impl RepoId {
    /// `owner/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What follows the owner.
    pub fn name(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or(&self.id)
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl FromStr for RepoId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = id.split('/').collect();
        let is_id = parts.len() == 2 && parts.iter().all(|part| is_name(part)) && id.len() <= MAX_ID_BYTES;
        if is_id && revision.split('/').all(is_name) {
            return Ok(Self { id: id.to_owned(), revision: revision.to_owned() });
        }
        let why = format!("expected owner/name or owner/name@revision, found {text:?}");
        Err(Error::Invalid { field: "repository", why })
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// What may stand between two slashes of a name, and be a file's name here: nothing that leads elsewhere, and no
/// `--`, by which the cache joins owner and name.
pub(super) fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().all(is_plain)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && !text.contains("--")
        && !text.contains("..")
}
