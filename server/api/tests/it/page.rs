//! The page and its parts, as a browser loads them.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;

use crate::world::World;

#[tokio::test]
async fn every_file_of_the_page_is_served_under_a_strict_policy() {
    let world = World::new().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/web");
    let mut kinds = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = if name == "index.html" { "/".to_owned() } else { format!("/assets/{name}") };
        let answer = world.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.body, std::fs::read(format!("{folder}/{name}")).unwrap(), "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        for (header, value) in [
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-cache"),
        ] {
            assert_eq!(answer.header(header), value, "{path}");
        }
        kinds.insert(answer.header("content-type").to_owned());
        let etag = answer.header("etag");
        let again = Request::get(&path).header("if-none-match", etag).body(Body::empty()).unwrap();
        let again = world.send(again).await;
        assert_eq!((again.status.as_u16(), again.body.len(), again.header("etag")), (304, 0, etag));
    }
    let expected = [
        "image/svg+xml",
        "text/css; charset=utf-8",
        "text/html; charset=utf-8",
        "text/javascript; charset=utf-8",
    ];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_the_page_refers_to_is_there() {
    let world = World::new().await;
    let mut looked_at = 0;
    for (page, local) in [("/", "/"), ("/docs/", "./")] {
        let text = world.get(page).await.text();
        for attribute in ["src=\"", "href=\""] {
            for rest in text.split(&format!("{attribute}{local}")).skip(1) {
                let path = format!("{page}{}", rest.split('"').next().unwrap());
                assert_eq!(world.get(&path).await.status, 200, "{path}");
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 5);
    world.get("/assets/none.js").await.assert_refused(404, "not_found");
    world.get("/assets/..%2f..%2fCargo.toml").await.assert_refused(404, "not_found");
    assert_eq!(world.get("/docs").await.header("location"), "/docs/");
    let docs = world.get("/docs/").await;
    assert!(docs.header("content-security-policy").contains("script-src 'self'"));
    assert!(world.get("/docs/swagger-initializer.js").await.text().contains("/openapi.json"));
}

#[tokio::test]
async fn the_description_comes_in_both_forms() {
    let world = World::new().await;
    let yaml = world.get("/openapi.yaml").await;
    assert_eq!((yaml.text(), yaml.header("content-type")), (api::openapi_yaml(), "application/yaml"));
    let json = world.get("/openapi.json").await;
    assert_eq!(json.json(), serde_json::to_value(api::openapi()).unwrap());
}
