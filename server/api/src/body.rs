//! Reads the body of a request into [`Fields`], by its content type and within the limits.
//!
//! axum's multipart reader and `form_urlencoded` do the parsing; this module picks one, counts bytes and turns
//! every way to fail into an [`Error`]. Where an endpoint takes no files, an uploaded one is read to its end, so that the
//! client gets to hear the answer, and dropped.

use axum::RequestExt;
use axum::body::Body;
use axum::extract::multipart::{self, Multipart, MultipartError};
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};

use crate::error::{Code, Error, Result};
use crate::fields::{Field, Fields};
use crate::state::{AppState, Limits};

/// What a body may hold.
#[derive(Clone, Copy)]
struct Bounds {
    /// Bytes of all text.
    text_bytes: usize,
    /// Bytes of all files; none where files are dropped.
    file_bytes: Option<usize>,
}

impl FromRequest<AppState> for Fields {
    type Rejection = Error;

    async fn from_request(request: Request, state: &AppState) -> Result<Self> {
        Self::read(request, Bounds { text_bytes: state.limits.max_text_bytes, file_bytes: None }).await
    }
}

impl Fields {
    /// As [`Fields::from_request`], with an image: as a file, or in base64 within the text.
    pub(crate) async fn with_image(request: Request, limits: &Limits) -> Result<Self> {
        let image_bytes = limits.max_image_bytes;
        // Three bytes are four characters.
        let text_bytes = limits.max_text_bytes + image_bytes.div_ceil(3) * 4;
        Self::read(request, Bounds { text_bytes, file_bytes: Some(image_bytes) }).await
    }

    async fn read(request: Request, bounds: Bounds) -> Result<Self> {
        let max_text_bytes = bounds.text_bytes;
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
        match essence.trim().to_ascii_lowercase().as_str() {
            "application/json" => Self::from_json(&text_body(request, max_text_bytes).await?),
            "application/x-www-form-urlencoded" => {
                Self::from_urlencoded(&text_body(request, max_text_bytes).await?)
            }
            "multipart/form-data" => {
                let form = request.extract().await.map_err(|error: multipart::MultipartRejection| {
                    Error::refused(
                        Code::InvalidRequest,
                        format!("the multipart body cannot be read: {error}"),
                    )
                })?;
                read_multipart(form, bounds).await
            }
            _ => Err(Error::refused(
                Code::UnsupportedMediaType,
                format!(
                    "the content type must be multipart/form-data, application/json or \
                     application/x-www-form-urlencoded, found {}",
                    content_type.map_or_else(|| "none".to_owned(), crate::fields::quoted)
                ),
            )),
        }
    }
}

async fn text_body(request: Request<Body>, max_bytes: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut stream = request.into_body().into_data_stream();
    while let Some(chunk) = futures_util::StreamExt::next(&mut stream).await {
        let chunk = chunk.map_err(|error| {
            Error::refused(Code::InvalidRequest, format!("the body ended before its time: {error}"))
        })?;
        if bytes.len() + chunk.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn read_multipart(mut form: Multipart, bounds: Bounds) -> Result<Fields> {
    let mut fields = Fields::default();
    let (mut text_bytes, mut file_bytes) = (0, 0);
    while let Some(mut part) = form.next_field().await.map_err(|error| not_multipart(&error))? {
        let name = part.name().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(Error::refused(Code::InvalidRequest, "a part of the multipart body has no name"));
        }
        let is_file = part.file_name().is_some();
        let mut bytes = Vec::new();
        while let Some(chunk) = part.chunk().await.map_err(|error| not_multipart(&error))? {
            let (read_bytes, max_bytes) = match (is_file, bounds.file_bytes) {
                (false, _) => (&mut text_bytes, bounds.text_bytes),
                (true, Some(max_bytes)) => (&mut file_bytes, max_bytes),
                (true, None) => continue,
            };
            *read_bytes += chunk.len();
            if *read_bytes > max_bytes {
                return Err(too_large(max_bytes));
            }
            bytes.extend_from_slice(&chunk);
        }
        if is_file {
            fields.insert(&name, Field::File(bytes))?;
        } else {
            let text = String::from_utf8(bytes).map_err(|_| {
                Error::param(Code::InvalidRequest, &name, format!("'{name}' is not valid UTF-8"))
            })?;
            fields.insert_text(&name, text)?;
        }
    }
    Ok(fields)
}

fn not_multipart(error: &MultipartError) -> Error {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Error::refused(Code::PayloadTooLarge, "the body is larger than this server accepts");
    }
    Error::refused(Code::InvalidRequest, format!("the multipart body cannot be read: {}", error.body_text()))
}

fn too_large(max_bytes: usize) -> Error {
    let message = format!("the fields are larger than the {max_bytes} bytes this server accepts");
    Error::refused(Code::PayloadTooLarge, message)
}
