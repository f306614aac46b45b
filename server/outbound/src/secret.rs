//! Secrets that must not be printed: keys for others' servers, and the key that signs webhooks.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{Error, Result};

/// What a signing secret begins with, by the Standard Webhooks specification.
const PREFIX: &str = "whsec_";

/// A secret. `Debug` hides it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The key of webhooks' signatures, as <https://www.standardwebhooks.com> has it. `Debug` hides it.
#[derive(Clone)]
pub struct WebhookSecret(Hmac<Sha256>);

impl WebhookSecret {
    /// Reads `whsec_` and the Base64 of 24 to 64 bytes, the lengths that the specification allows.
    ///
    /// # Errors
    /// [`Error::Invalid`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: String| Error::Invalid { field: "webhook secret", why };
        let encoded =
            text.strip_prefix(PREFIX).ok_or_else(|| invalid(format!("it does not begin with {PREFIX}")))?;
        let key = STANDARD
            .decode(encoded)
            .map_err(|_| invalid(format!("what follows {PREFIX} is not padded Base64")))?;
        if !(24..=64).contains(&key.len()) {
            return Err(invalid(format!("it holds {} bytes, expected 24 to 64", key.len())));
        }
        Hmac::new_from_slice(&key).map(Self).map_err(|e| invalid(e.to_string()))
    }

    /// The value of `webhook-signature` for this body, sent under this id at this time.
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}
