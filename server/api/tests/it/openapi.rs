//! The committed description against the code.

#[test]
fn the_committed_description_is_the_codes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.yaml");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == api::openapi_yaml(),
        "openapi.yaml is out of date; regenerate it: cargo run -p cogvideox-server -- openapi > openapi.yaml"
    );
}

#[test]
fn every_operation_documents_its_refusals_and_the_request_id() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("500"), "{method} {path}");
            for (status, response) in responses {
                assert!(response["headers"]["x-request-id"]["$ref"].is_string(), "{method} {path} {status}");
                let refusal = status.starts_with(['4', '5']) && response["content"].is_object();
                let schema = &response["content"]["application/json"]["schema"]["$ref"];
                let is_envelope = schema == "#/components/schemas/ErrorEnvelope";
                assert!(
                    !refusal || is_envelope || schema == "#/components/schemas/Readiness",
                    "{method} {path} {status}"
                );
            }
        }
    }
    assert_eq!(operations, 26);
}

#[test]
fn every_reference_leads_somewhere() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let text = document.to_string();
    let mut references = 0;
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
        references += 1;
    }
    assert!(references > 100);
}
