//! Downloading a finished video, or a picture of it: the whole file or a part of it.
//!
//! tower-http's `ServeFile` is not used: its etag is made of length and time of change where ours is the file's
//! SHA-256, and it does not know `If-Range`. `http-range-header` and `headers` read the headers.

use std::ops::RangeInclusive;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use headers::{ETag, HeaderMapExt, IfNoneMatch, IfRange};
use http_range_header::{RangeUnsatisfiableError, parse_range_header};
use queue::{Output, OutputFile, Scope, Status, Video, VideoId};
use store::StoredFile;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::auth::Caller;
use crate::error::{Code, Error, Result, ascii};
use crate::fields::{Fields, quoted};
use crate::openapi::ContentErrors;
use crate::query::{Query, VideoPath, VideoPathParams};
use crate::state::AppState;

const CHUNK_BYTES: usize = 64 << 10;

/// Download a video.
///
/// Takes `range`, `if-range` and `if-none-match`; the file of an id never changes.
#[utoipa::path(
    get,
    path = "/v1/videos/{video_id}/content",
    tag = "videos",
    operation_id = "download_video",
    params(
        VideoPathParams,
        ("variant" = Option<Variant>, Query, description = "`video` by default; a picture may be missing."),
        ("download" = Option<Download>, Query, description = "0 to have browsers play it instead of saving it."),
    ),
    responses(
        (status = OK, description = "The file.", content(
            (File = "video/mp4"), (File = "image/webp"), (File = "image/jpeg"),
        ), headers(
            ("etag" = String, description = "SHA-256 of the file."),
            ("accept-ranges" = String, description = "`bytes`."),
            ("content-disposition" = String, description = "A file name."),
        )),
        (status = PARTIAL_CONTENT, description = "The bytes asked for.", content(
            (File = "video/mp4"), (File = "image/webp"), (File = "image/jpeg"),
        ), headers(
            ("content-range" = String, description = "Which bytes these are."),
            ("etag" = String, description = "SHA-256 of the file."),
        )),
        (status = NOT_MODIFIED, description = "The client has it already.", headers(
            ("etag" = String, description = "SHA-256 of the file."),
        )),
        ContentErrors,
    ),
)]
pub(crate) async fn download(
    State(state): State<AppState>,
    caller: Caller,
    VideoPath(id): VideoPath,
    Query(fields): Query,
    request: HeaderMap,
) -> Result<Response> {
    let (output, mut headers) = prepare(&state, &caller, id, fields).await?;
    if not_modified(&request, &headers) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let StoredFile { mut file, bytes } = open(&state, id, &output).await?;
    let Some(range) = wanted_range(&request, &headers, bytes)? else {
        headers.insert(header::CONTENT_LENGTH, bytes.into());
        return Ok((headers, stream(file)).into_response());
    };
    let length = range.end() - range.start() + 1;
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CONTENT_RANGE, ascii(format!("bytes {}-{}/{bytes}", range.start(), range.end())));
    file.seek(std::io::SeekFrom::Start(*range.start())).await?;
    Ok((StatusCode::PARTIAL_CONTENT, headers, stream(file.take(length))).into_response())
}

async fn open(state: &AppState, id: VideoId, output: &OutputFile) -> Result<StoredFile> {
    match state.store.open_file(&output.key).await {
        // Perhaps deleted or expired since its row was read; then that is the answer.
        Err(store::Error::NotFound(key)) => match state.queue.get(id).await {
            Ok(video) if video.expired_at_ms.is_some() => Err(expired()),
            Ok(_) => Err(store::Error::NotFound(key).into()),
            Err(gone) => Err(gone.into()),
        },
        opened => Ok(opened?),
    }
}

fn stream(file: impl AsyncRead + Send + 'static) -> Body {
    Body::from_stream(ReaderStream::with_capacity(file, CHUNK_BYTES))
}

/// Ask about a video's file.
///
/// The headers of the download, without the file.
#[utoipa::path(
    head,
    path = "/v1/videos/{video_id}/content",
    tag = "videos",
    operation_id = "download_video_headers",
    params(
        VideoPathParams,
        ("variant" = Option<Variant>, Query, description = "`video` by default; a picture may be missing."),
        ("download" = Option<Download>, Query, description = "0 to have browsers play it instead of saving it."),
    ),
    responses(
        (status = OK, description = "There is a file.", headers(
            ("etag" = String, description = "SHA-256 of the file."),
            ("accept-ranges" = String, description = "`bytes`."),
            ("content-disposition" = String, description = "A file name."),
        )),
        (status = NOT_MODIFIED, description = "The client has it already.", headers(
            ("etag" = String, description = "SHA-256 of the file."),
        )),
        ContentErrors,
    ),
)]
pub(crate) async fn head(
    State(state): State<AppState>,
    caller: Caller,
    VideoPath(id): VideoPath,
    Query(fields): Query,
    request: HeaderMap,
) -> Result<Response> {
    let (output, mut headers) = prepare(&state, &caller, id, fields).await?;
    if not_modified(&request, &headers) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    headers.insert(header::CONTENT_LENGTH, output.bytes.into());
    Ok(headers.into_response())
}

/// A file.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "documents the body, which is streamed")]
pub(crate) struct File(Vec<u8>);

/// The parts of a video's content.
#[derive(Clone, Copy, utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Variant {
    /// The MP4.
    Video,
    /// A still picture, WebP.
    Thumbnail,
    /// Many small pictures on one sheet, JPEG.
    Spritesheet,
}

impl Variant {
    fn from_fields(fields: &mut Fields) -> Result<Self> {
        match fields.string("variant")?.as_deref() {
            None | Some("video") => Ok(Self::Video),
            Some("thumbnail") => Ok(Self::Thumbnail),
            Some("spritesheet") => Ok(Self::Spritesheet),
            Some(other) => {
                let message =
                    format!("'variant' must be video, thumbnail or spritesheet, found {}", quoted(other));
                Err(Error::param(Code::UnknownVariant, "variant", message))
            }
        }
    }

    /// The variant's file, if it was made.
    fn of(self, output: Output) -> Result<OutputFile> {
        let (file, name) = match self {
            Self::Video => return Ok(output.video),
            Self::Thumbnail => (output.thumbnail, "thumbnail"),
            Self::Spritesheet => (output.spritesheet, "spritesheet"),
        };
        let missing = || format!("this video was made without a {name}");
        file.ok_or_else(|| Error::param(Code::VariantNotAvailable, "variant", missing()))
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Video => "video/mp4",
            Self::Thumbnail => "image/webp",
            Self::Spritesheet => "image/jpeg",
        }
    }

    /// What browsers save it under.
    fn file_name(self, id: VideoId) -> String {
        match self {
            Self::Video => format!("{id}.mp4"),
            Self::Thumbnail => format!("{id}_thumbnail.webp"),
            Self::Spritesheet => format!("{id}_spritesheet.jpg"),
        }
    }
}

/// Whether a browser saves the file.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "documents the parameter, whose refusal has its own words")]
pub(crate) enum Download {
    /// Play it.
    #[schema(rename = "0")]
    Inline,
    /// Save it.
    #[schema(rename = "1")]
    Attachment,
}

/// The file behind the request, and the headers that describe it.
async fn prepare(
    state: &AppState,
    caller: &Caller,
    id: VideoId,
    mut fields: Fields,
) -> Result<(OutputFile, HeaderMap)> {
    caller.require(Scope::Read)?;
    let variant = Variant::from_fields(&mut fields)?;
    let inline = fields.integer("download", &(0..=1), Code::InvalidType)?.unwrap_or(1) == 0;
    fields.finish()?;
    let file = variant.of(finished(caller.find(state, id).await?)?)?;
    let disposition = if inline { "inline" } else { "attachment" };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(variant.content_type()));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    headers.insert(header::ETAG, ascii(format!("\"{}\"", file.sha256)));
    let disposition = format!("{disposition}; filename=\"{}\"", variant.file_name(id));
    headers.insert(header::CONTENT_DISPOSITION, ascii(disposition));
    Ok((file, headers))
}

/// The files of a finished video, or why there are none.
fn finished(row: Video) -> Result<Output> {
    if row.expired_at_ms.is_some() {
        return Err(expired());
    }
    match (row.status, row.output, row.error) {
        (Status::Completed, Some(output), _) => Ok(output),
        (Status::Cancelled, ..) => Err(Error::refused(Code::Cancelled, "the video was cancelled")),
        (_, _, Some(error)) => Err(Error::VideoFailed { code: error.code, message: error.message }),
        (status, ..) => {
            Err(Error::refused(Code::VideoNotReady, format!("the video is {status}, it has no content yet")))
        }
    }
}

fn expired() -> Error {
    Error::refused(Code::VideoExpired, "the video's files were removed to make room")
}

fn not_modified(request: &HeaderMap, file: &HeaderMap) -> bool {
    let (Some(condition), Some(etag)) = (request.typed_get::<IfNoneMatch>(), file.typed_get::<ETag>()) else {
        return false;
    };
    !condition.precondition_passes(&etag)
}

/// The one range to send, if not the whole file. Several ranges, a unit other than bytes, an ill-formed header and
/// an `if-range` of another file are all answered with the whole file, as RFC 9110 allows or asks.
fn wanted_range(request: &HeaderMap, file: &HeaderMap, bytes: u64) -> Result<Option<RangeInclusive<u64>>> {
    let Some(range) = request.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    if request.contains_key(header::IF_RANGE) {
        let condition = request.typed_get::<IfRange>();
        if condition.is_none_or(|condition| condition.is_modified(file.typed_get::<ETag>().as_ref(), None)) {
            return Ok(None);
        }
    }
    match parse_range_header(range).and_then(|ranges| ranges.validate(bytes)) {
        Ok(ranges) if ranges.len() == 1 => Ok(ranges.into_iter().next()),
        Err(RangeUnsatisfiableError::Unsatisfiable) => Err(Error::RangeNotSatisfiable { bytes }),
        Ok(_) | Err(_) => Ok(None),
    }
}
