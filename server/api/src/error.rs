//! Every refusal this crate can answer with: the error type, the table of codes, and the one JSON envelope.
//!
//! Relies on the names and numbers of HTTP only. Handlers return [`Error`]; it becomes a response without a
//! body that carries an [`ErrorBody`], and the layer of [`crate::envelope`] writes the
//! JSON. So a refusal made by a handler, by the router (404, 405), by a layer (408, 413) or by a panic has the
//! same shape, and an internal failure always quotes its request id and never its cause.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use queue::Unwritable;
use serde::Serialize;
use utoipa::ToSchema;

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Header with which a caller and this server name one exchange.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// When a job table that takes no changes is worth trying again.
const UNWRITABLE_AFTER: Duration = Duration::from_secs(5);
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

macro_rules! code_table {
    ($($(#[doc = $doc:literal])+ $variant:ident = $status:ident $text:literal;)+) => {
        /// Why a request was refused: the `code` of an error envelope, and through it the HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            /// The whole table, for the API's document.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code as clients read it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The status a refusal with this code is answered with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            pub(crate) const fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

code_table! {
    /// The request is not well formed (bad JSON, bad multipart, bad path).
    InvalidRequest = BAD_REQUEST "invalid_request";
    /// A field that must be given is missing.
    MissingRequiredParameter = BAD_REQUEST "missing_required_parameter";
    /// A field this endpoint does not know.
    UnknownParameter = BAD_REQUEST "unknown_parameter";
    /// A field given more than once.
    DuplicateParameter = BAD_REQUEST "duplicate_parameter";
    /// A field of the wrong type.
    InvalidType = BAD_REQUEST "invalid_type";
    /// Two fields that contradict each other.
    ConflictingParameters = BAD_REQUEST "conflicting_parameters";
    /// The prompt has no text.
    EmptyPrompt = BAD_REQUEST "empty_prompt";
    /// The prompt has more tokens or characters than allowed.
    PromptTooLong = BAD_REQUEST "prompt_too_long";
    /// Not a size the model was trained for.
    UnsupportedSize = BAD_REQUEST "unsupported_size";
    /// Not a length in seconds the model can make.
    InvalidSeconds = BAD_REQUEST "invalid_seconds";
    /// Not a frame count of the model's lattice.
    UnsupportedNumFrames = BAD_REQUEST "unsupported_num_frames";
    /// Not the model's frame rate.
    UnsupportedFps = BAD_REQUEST "unsupported_fps";
    /// A step count out of range or one the schedule cannot run.
    UnsupportedNumInferenceSteps = BAD_REQUEST "unsupported_num_inference_steps";
    /// A guidance scale out of range.
    InvalidGuidanceScale = BAD_REQUEST "invalid_guidance_scale";
    /// Not a scheduler this server has.
    UnsupportedScheduler = BAD_REQUEST "unsupported_scheduler";
    /// Too many adapters, one named twice, or a scale out of range.
    InvalidLora = BAD_REQUEST "invalid_lora";
    /// No adapter has this name.
    UnknownLora = BAD_REQUEST "unknown_lora";
    /// The model cannot be used with this adapter.
    UnsupportedLora = BAD_REQUEST "unsupported_lora";
    /// The adapter's file is another one than when the video was asked for.
    LoraChanged = BAD_REQUEST "lora_changed";
    /// A seed out of range.
    InvalidSeed = BAD_REQUEST "invalid_seed";
    /// A priority out of range.
    InvalidPriority = BAD_REQUEST "invalid_priority";
    /// Metadata over its limits.
    InvalidMetadata = BAD_REQUEST "invalid_metadata";
    /// More than one video asked for at once.
    UnsupportedN = BAD_REQUEST "unsupported_n";
    /// An image given to a text-to-video model, or named instead of sent.
    UnsupportedInputReference = BAD_REQUEST "unsupported_input_reference";
    /// An operation this server does not do.
    UnsupportedOperation = BAD_REQUEST "unsupported_operation";
    /// A `limit` out of range.
    InvalidLimit = BAD_REQUEST "invalid_limit";
    /// An `order` other than `asc` or `desc`.
    InvalidOrder = BAD_REQUEST "invalid_order";
    /// A `state` that no video can have.
    InvalidState = BAD_REQUEST "invalid_state";
    /// An `after` that names no video.
    InvalidCursor = BAD_REQUEST "invalid_cursor";
    /// Not a variant of a video's content.
    UnknownVariant = BAD_REQUEST "unknown_variant";
    /// A field of a feature that this server does not have or has switched off.
    UnsupportedParameter = BAD_REQUEST "unsupported_parameter";
    /// A webhook's URL that this server will not call.
    InvalidWebhookUrl = BAD_REQUEST "invalid_webhook_url";
    /// A file that is no PNG, JPEG or WebP image, is damaged or too large a picture.
    InvalidImage = BAD_REQUEST "invalid_image";
    /// An `Idempotency-Key` that is not 1 to 255 visible ASCII characters.
    InvalidIdempotencyKey = BAD_REQUEST "invalid_idempotency_key";
    /// A prompt that this server's operator does not allow.
    PromptRefused = BAD_REQUEST "prompt_refused";
    /// The video is not finished yet.
    VideoNotReady = BAD_REQUEST "video_not_ready";
    /// The video was cancelled; it has no content.
    Cancelled = BAD_REQUEST "cancelled";
    /// This server asks for an API key, and none came.
    MissingApiKey = UNAUTHORIZED "missing_api_key";
    /// Not an API key of this server, or a revoked one.
    InvalidApiKey = UNAUTHORIZED "invalid_api_key";
    /// The ticket was used, is too old or never was.
    InvalidTicket = UNAUTHORIZED "invalid_ticket";
    /// The API key is not good for this.
    PermissionDenied = FORBIDDEN "permission_denied";
    /// A change asked for by a page of another origin.
    CrossSiteRequest = FORBIDDEN "cross_site_request";
    /// A `Host` that is not a name of this server.
    HostNotAllowed = FORBIDDEN "host_not_allowed";
    /// No route has this path.
    NotFound = NOT_FOUND "not_found";
    /// No video has this id.
    VideoNotFound = NOT_FOUND "video_not_found";
    /// The video was made without this variant of its content.
    VariantNotAvailable = NOT_FOUND "variant_not_available";
    /// The video's files were removed, to make room or because it failed long ago.
    VideoExpired = GONE "video_expired";
    /// No model has this id.
    ModelNotFound = NOT_FOUND "model_not_found";
    /// The path exists, with other methods (see the `allow` header).
    MethodNotAllowed = METHOD_NOT_ALLOWED "method_not_allowed";
    /// The request was not received or not answered in time.
    RequestTimeout = REQUEST_TIMEOUT "request_timeout";
    /// A cancellation that the worker has not carried out yet.
    CancellationInProgress = CONFLICT "cancellation_in_progress";
    /// Only a video that waits can be moved.
    VideoNotQueued = CONFLICT "video_not_queued";
    /// The body is larger than allowed.
    PayloadTooLarge = PAYLOAD_TOO_LARGE "payload_too_large";
    /// Not a content type this endpoint reads.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type";
    /// The byte range asked for lies outside the file.
    RangeNotSatisfiable = RANGE_NOT_SATISFIABLE "range_not_satisfiable";
    /// The idempotency key came with another request before.
    IdempotencyKeyReuse = UNPROCESSABLE_ENTITY "idempotency_key_reuse";
    /// More requests a minute than the API key may make.
    RateLimitExceeded = TOO_MANY_REQUESTS "rate_limit_exceeded";
    /// As many event streams are open as may be.
    TooManyStreams = TOO_MANY_REQUESTS "too_many_streams";
    /// As many tickets wait to be used as may.
    TooManyTickets = TOO_MANY_REQUESTS "too_many_tickets";
    /// The queue holds as many waiting videos as it may.
    QueueFull = TOO_MANY_REQUESTS "queue_full";
    /// The server failed; its log has the cause under the request id.
    Internal = INTERNAL_SERVER_ERROR "internal";
    /// The model is being loaded.
    ModelNotReady = SERVICE_UNAVAILABLE "model_not_ready";
    /// The server is shutting down.
    ServerDraining = SERVICE_UNAVAILABLE "server_draining";
    /// The worker stopped working; the server must be restarted.
    WorkerFailed = SERVICE_UNAVAILABLE "worker_failed";
    /// The disk is full but for its reserve.
    InsufficientStorage = SERVICE_UNAVAILABLE "insufficient_storage";
    /// The job table takes no changes for now.
    QueueUnavailable = SERVICE_UNAVAILABLE "queue_unavailable";
    /// The prompt could not be checked.
    PromptCheckUnavailable = SERVICE_UNAVAILABLE "prompt_check_unavailable";
}

impl Code {
    /// Whether the openai client, which retries these statuses, must be told that it is of no use.
    const fn is_final(self) -> bool {
        matches!(self, Self::VideoNotQueued | Self::InsufficientStorage)
    }
}

/// What a handler refuses or fails with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be served as it stands.
    #[error("{message}")]
    Refused {
        /// Entry of the table.
        code: Code,
        /// The field at fault, as the client spelled it.
        param: Option<String>,
        /// What was expected and what was found.
        message: String,
    },
    /// The same request may be served later.
    #[error("{message}")]
    TryLater {
        /// Entry of the table.
        code: Code,
        /// What stands in the way.
        message: String,
        /// When it is worth trying again.
        after: Duration,
    },
    /// The content of a video that failed was asked for; the code is the job's own.
    #[error("{message}")]
    VideoFailed {
        /// The job's error code.
        code: String,
        /// The job's error message.
        message: String,
    },
    /// A byte range outside the file was asked for.
    #[error("the range lies outside the file of {bytes} bytes")]
    RangeNotSatisfiable {
        /// Length of the file.
        bytes: u64,
    },
    /// The job queue failed.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// The file store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A file that is there could not be read.
    #[error("a finished file cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

impl Error {
    /// The entry of the table that is nearest, for counting.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Refused { code, .. } | Self::TryLater { code, .. } => *code,
            Self::RangeNotSatisfiable { .. } => Code::RangeNotSatisfiable,
            Self::Queue(queue::Error::NotFound(_)) => Code::VideoNotFound,
            Self::VideoFailed { .. } => Code::VideoNotReady,
            Self::Queue(error) => match error.unwritable() {
                Some(Unwritable::Full) => Code::InsufficientStorage,
                Some(Unwritable::Busy | Unwritable::Failing) => Code::QueueUnavailable,
                None => Code::Internal,
            },
            Self::Store(_) | Self::Read(_) => Code::Internal,
        }
    }

    pub(crate) fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::Refused { code, param: None, message: message.into() }
    }

    pub(crate) fn param(code: Code, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Refused { code, param: Some(param.into()), message: message.into() }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorEnvelope {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What went wrong, in OpenAI's four fields.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorBody {
    /// For people: what was expected and what was found.
    pub message: String,
    /// The family of the error, which follows from the status.
    pub r#type: ErrorType,
    /// The request's field at fault, if one is.
    #[schema(required)]
    pub param: Option<String>,
    /// For programs: an entry of the table in this document's description, or the code of a failed job.
    pub code: String,
}

/// Families of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// The request is at fault.
    InvalidRequestError,
    /// Who asks is not known.
    AuthenticationError,
    /// Who asks may not.
    PermissionError,
    /// What was asked for does not exist.
    NotFoundError,
    /// Too much was asked for at once.
    RateLimitExceeded,
    /// The server is at fault.
    ServerError,
}

impl From<StatusCode> for ErrorType {
    fn from(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::AuthenticationError,
            StatusCode::FORBIDDEN => Self::PermissionError,
            StatusCode::NOT_FOUND | StatusCode::GONE => Self::NotFoundError,
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimitExceeded,
            status if status.is_server_error() => Self::ServerError,
            _ => Self::InvalidRequestError,
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if let Self::Queue(error) = &self
            && error.unwritable().is_some()
        {
            tracing::error!(%error, "the job table takes no changes");
            return unwritable(self.code()).into_response();
        }
        let mut headers = HeaderMap::new();
        let message = self.to_string();
        let (status, code, param) = match self {
            Self::Refused { code, param, .. } => {
                if code.is_final() {
                    headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
                }
                if code.status() == StatusCode::UNAUTHORIZED {
                    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                }
                (code.status(), code.as_str().to_owned(), param)
            }
            Self::TryLater { code, after, .. } => {
                retry_headers(&mut headers, after);
                (code.status(), code.as_str().to_owned(), None)
            }
            Self::VideoFailed { code, .. } => (StatusCode::BAD_REQUEST, code, None),
            Self::RangeNotSatisfiable { bytes } => {
                headers.insert(header::CONTENT_RANGE, ascii(format!("bytes */{bytes}")));
                let code = Code::RangeNotSatisfiable;
                (code.status(), code.as_str().to_owned(), Some("range".to_owned()))
            }
            Self::Queue(queue::Error::NotFound(id)) => {
                return video_not_found(&id.to_string()).into_response();
            }
            Self::Queue(_) | Self::Store(_) | Self::Read(_) => {
                tracing::error!(error = %message, "request failed");
                return status_response(StatusCode::INTERNAL_SERVER_ERROR);
            }
        };
        let mut response = (status, headers).into_response();
        response.extensions_mut().insert(ErrorBody { message, r#type: status.into(), param, code });
        response
    }
}

/// What a client is told when the job table takes no changes: not why, which is the operator's business.
fn unwritable(code: Code) -> Error {
    if code == Code::InsufficientStorage {
        return Error::refused(code, "the server's disk is full");
    }
    let message = "the server's job table takes no changes now".to_owned();
    Error::TryLater { code, message, after: UNWRITABLE_AFTER }
}

/// What the client says about waiting: seconds for everyone, milliseconds for the openai client, which does not
/// retry at all when told to wait for more than 120 s.
fn retry_headers(headers: &mut HeaderMap, after: Duration) {
    let after = after.min(Duration::from_mins(2));
    headers.insert(header::RETRY_AFTER, ascii(after.as_millis().div_ceil(1000).to_string()));
    headers.insert(RETRY_AFTER_MS, ascii(after.as_millis().to_string()));
}

/// A header value out of text that this crate wrote itself.
pub(crate) fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("written by this crate in visible ASCII")
}

pub(crate) fn video_not_found(id: &str) -> Error {
    Error::param(Code::VideoNotFound, "video_id", format!("no video has the id '{id}'"))
}

/// A response that [`crate::envelope`] gives its body.
pub(crate) fn status_response(status: StatusCode) -> Response {
    status.into_response()
}
