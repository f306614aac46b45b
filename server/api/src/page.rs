//! The page for people and its parts, the API's description, and the viewer of it: files that are in the binary.
//!
//! Knows no state: what the page shows it asks the API for, as any client does. Its policy lets it load from this
//! server only, so the files hold no script or style inside a document.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use headers::{ETag, HeaderMapExt as _, IfNoneMatch};
use sha2::{Digest as _, Sha256};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::hex::hex;
use crate::openapi::{openapi, openapi_yaml};
use crate::state::AppState;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
    media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The same for Swagger UI 10.0.2, which puts one style, of this digest, into its document.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; \
    style-src 'self' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='; img-src 'self' blob: data:; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A file as it is sent.
struct Asset {
    content_type: &'static str,
    content: Bytes,
    etag: ETag,
}

impl Asset {
    fn new(content_type: &'static str, content: Bytes) -> Self {
        let digest = hex(&Sha256::digest(&content));
        let etag = format!("\"{digest}\"").parse().expect("hexadecimal in quotes is an etag");
        Self { content_type, content, etag }
    }

    /// The file, unless the client has it. Asked for again each time: a new server may have another.
    fn respond(&self, request: &HeaderMap) -> Response {
        let mut headers = HeaderMap::new();
        headers.typed_insert(self.etag.clone());
        let fixed = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        let known = request.typed_get::<IfNoneMatch>();
        if known.is_some_and(|known| !known.precondition_passes(&self.etag)) {
            return (StatusCode::NOT_MODIFIED, fixed, headers).into_response();
        }
        (fixed, headers, self.content.clone()).into_response()
    }
}

/// The files of the folder `web`, by name.
static ASSETS: LazyLock<HashMap<&'static str, Asset>> = LazyLock::new(|| {
    FILES
        .iter()
        .map(|(name, content)| (*name, Asset::new(content_type(name), Bytes::from_static(content))))
        .collect()
});

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        const FILES: &[(&str, &[u8])] = &[$(($name, include_bytes!(concat!("../web/", $name)))),+];
    };
}

files![
    "actions.js",
    "api.js",
    "app.js",
    "cards.css",
    "composer.js",
    "detail.js",
    "dialogs.js",
    "dom.js",
    "fields.js",
    "format.js",
    "icon.svg",
    "index.html",
    "lists.js",
    "media.js",
    "pickers.js",
    "store.js",
    "stream.js",
    "style.css",
    "theme.js",
];

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, kind)| kind) {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

static DESCRIPTION_YAML: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("application/yaml", openapi_yaml().into()));
static DESCRIPTION_JSON: LazyLock<Asset> = LazyLock::new(|| {
    let text = serde_json::to_vec(&openapi()).expect("a document of strings, numbers and lists becomes JSON");
    Asset::new("application/json", text.into())
});

/// The routes of the page. Not in the API's description: they are no part of it.
pub(crate) fn routes() -> Router<AppState> {
    let file = |name: &'static str| get(async move |request: HeaderMap| asset(name, &request));
    Router::new()
        .route("/", file("index.html"))
        .route(
            "/assets/{name}",
            get(async |Path(name): Path<String>, request: HeaderMap| asset(&name, &request)),
        )
        .route("/openapi.yaml", get(async |request: HeaderMap| DESCRIPTION_YAML.respond(&request)))
        .route("/openapi.json", get(async |request: HeaderMap| DESCRIPTION_JSON.respond(&request)))
        .merge(docs())
}

/// Swagger UI at `/docs`, whole in the binary: requests can be tried there.
fn docs() -> Router<AppState> {
    let fixed = |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    let config = Config::from("/openapi.json").try_it_out_enabled(true).persist_authorization(false);
    Router::from(SwaggerUi::new("/docs").config(config))
        .layer(fixed(header::CONTENT_SECURITY_POLICY, DOCS_POLICY))
        .layer(fixed(header::X_FRAME_OPTIONS, "DENY"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
}

fn asset(name: &str, request: &HeaderMap) -> Response {
    match ASSETS.get(name) {
        Some(asset) => asset.respond(request),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
