//! The picture that a video starts from: as a request brings it, checked, and as a file of the store.
//!
//! Each video has a file of its own, also where it has the picture of another: so it goes with its video, and no other
//! misses it. The file is whole before the row that names it is written; one that no row names is swept at the next
//! start. What a picture may be is the binary's to say; this crate only tells the kinds of files apart.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use queue::OutputFile;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::fields::{Field, Fields, quoted};
use crate::hex::hex;
use crate::model::ModelCard;
use crate::state::AppState;

const PARAM: &str = "input_reference";
/// With padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file as it was sent.
#[derive(Debug, Serialize)]
pub(crate) struct InputReference {
    #[serde(skip)]
    content: Vec<u8>,
    /// What two requests are compared by.
    sha256: String,
}

/// The picture that a video is to have.
#[derive(Debug)]
pub(crate) enum WantedImage {
    /// It came with the request.
    Sent(Vec<u8>),
    /// An earlier video has it.
    Kept(OutputFile),
}

pub(crate) fn schema() -> Schema {
    let file = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .description(Some("A file, in a multipart form."));
    let url = ObjectBuilder::new()
        .property("image_url", ObjectBuilder::new().schema_type(Type::String).pattern(Some("^data:")))
        .required("image_url")
        .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::<Schema>::FreeForm(
            false,
        )));
    AnyOfBuilder::new()
        .description(Some(
            "The picture that the video starts from, for models that take one and need it: PNG, JPEG or WebP. A file \
             in a form, or an object whose `image_url` is a `data:` URL.",
        ))
        .item(file)
        .item(url)
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .build()
        .into()
}

/// The request's picture, if it has one: a file, or an object that says where one is.
pub(crate) fn take(fields: &mut Fields) -> Result<Option<InputReference>> {
    let Some(field) = fields.take(PARAM) else { return Ok(None) };
    let content = match field {
        Field::File(content) => content,
        field => match only_member(&field) {
            Some(("image_url", url)) => of_url(url)?,
            Some(("file_id", _)) => {
                let message =
                    "'input_reference' must be the picture itself: this server keeps no files to be named";
                return Err(Error::param(Code::UnsupportedInputReference, PARAM, message));
            }
            _ => {
                let message = format!(
                    "'input_reference' must be an image file or an object with 'image_url', found {}",
                    field.found()
                );
                return Err(Error::param(Code::InvalidType, PARAM, message));
            }
        },
    };
    let sha256 = hex(&Sha256::digest(&content));
    Ok(Some(InputReference { content, sha256 }))
}

/// Name and text of an object that has one member.
fn only_member(field: &Field) -> Option<(&str, &str)> {
    match field {
        Field::Group(members) if members.len() == 1 => {
            members.iter().next().map(|(name, text)| (name.as_str(), text.as_str()))
        }
        Field::Json(Value::Object(members)) if members.len() == 1 => {
            members.iter().next().and_then(|(name, value)| Some((name.as_str(), value.as_str()?)))
        }
        _ => None,
    }
}

/// The content of a `data:` URL (RFC 2397), in base64 as all images in such URLs are.
fn of_url(url: &str) -> Result<Vec<u8>> {
    let Some(rest) = url.strip_prefix("data:") else {
        let message = format!(
            "'input_reference' must be a data: URL: this server fetches nothing, found {}",
            quoted(url)
        );
        return Err(Error::param(Code::UnsupportedInputReference, PARAM, message));
    };
    let content = rest.split_once(";base64,").and_then(|(_, text)| BASE64.decode(text.trim_ascii()).ok());
    content.ok_or_else(|| {
        let message = format!("'input_reference' must be a data: URL with base64, found {}", quoted(url));
        Error::param(Code::InvalidImage, PARAM, message)
    })
}

/// Whether the model and the request go together, and the file may be a picture.
pub(crate) fn check(
    state: &AppState,
    card: &ModelCard,
    sent: Option<InputReference>,
) -> Result<Option<WantedImage>> {
    let (content, id) = match (sent, &card.id) {
        (None, id) if card.supports_image => {
            let message = format!("the model '{id}' starts from a picture: send one as 'input_reference'");
            return Err(Error::param(Code::MissingRequiredParameter, PARAM, message));
        }
        (None, _) => return Ok(None),
        (Some(sent), id) => (sent.content, id),
    };
    if !card.supports_image {
        let message = format!("the model '{id}' makes videos from text alone; leave 'input_reference' out");
        return Err(Error::param(Code::UnsupportedInputReference, PARAM, message));
    }
    let max_bytes = state.limits.max_image_bytes;
    if content.len() > max_bytes {
        let message = format!("'input_reference' has {} bytes, the server takes {max_bytes}", content.len());
        return Err(Error::param(Code::PayloadTooLarge, PARAM, message));
    }
    if !is_image(&content) {
        let message = "'input_reference' must be a PNG, JPEG or WebP image, found a file of another kind";
        return Err(Error::param(Code::InvalidImage, PARAM, message));
    }
    Ok(Some(WantedImage::Sent(content)))
}

/// Whether a file begins as a PNG, JPEG or WebP image does; its name and content type are the client's say-so.
fn is_image(content: &[u8]) -> bool {
    content.starts_with(b"\x89PNG\r\n\x1a\n")
        || content.starts_with(b"\xff\xd8\xff")
        || (content.starts_with(b"RIFF") && content.get(8..12) == Some(b"WEBP"))
}

/// The content of the picture: a sent one is looked at, a kept one is read.
pub(crate) async fn read(state: &AppState, wanted: WantedImage) -> Result<Vec<u8>> {
    match wanted {
        WantedImage::Sent(content) => (state.check_image)(content).await.map_err(|why| {
            let message = format!("'input_reference' cannot be used: {why}");
            Error::param(Code::InvalidImage, PARAM, message)
        }),
        WantedImage::Kept(file) => {
            let gone =
                || Error::refused(Code::VideoExpired, "the picture that the video started from is gone");
            let content = match state.store.read(&file.key).await {
                Err(store::Error::NotFound(_)) => return Err(gone()),
                content => content?,
            };
            if hex(&Sha256::digest(&content)) == file.sha256 { Ok(content) } else { Err(gone()) }
        }
    }
}

/// Puts it into the store, under a name that no other video has.
pub(crate) async fn put(state: &AppState, content: Vec<u8>) -> Result<OutputFile> {
    let key = format!("input_{}.image", Uuid::now_v7().simple());
    let stored = state.store.put(&key, content).await?;
    Ok(OutputFile { key, bytes: stored.bytes, sha256: stored.sha256 })
}

/// Removes the picture of a video that was not made.
pub(crate) async fn remove(state: &AppState, image: &OutputFile) {
    if let Err(error) = state.store.delete(&image.key).await {
        tracing::warn!(key = image.key, %error, "a picture without a video stays until the next start");
    }
}
