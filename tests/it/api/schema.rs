//! As much of JSON Schema as the document of the API uses, to judge answers by it.

use serde_json::Value;

/// Why a value is not what a schema says; `None` where it is. `document` resolves references.
pub(crate) fn differs(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let wrong = |why: String| Some(format!("{why}: {value}"));
    let Some(rules) = schema.as_object() else { return wrong(format!("no schema: {schema}")) };
    for (rule, wanted) in rules {
        let found = match rule.as_str() {
            "$ref" => {
                let path = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                let target = document.pointer(path).unwrap_or_else(|| panic!("{wanted} is not there"));
                differs(document, target, value)
            }
            "type" => {
                let kinds = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                let fits = kinds.iter().any(|kind| is(kind.as_str().unwrap(), value));
                if fits { None } else { wrong(format!("is no {wanted}")) }
            }
            "const" if wanted != value => wrong(format!("is not {wanted}")),
            "enum" if !wanted.as_array().unwrap().contains(value) => wrong(format!("is none of {wanted}")),
            "minimum" if value.as_f64().is_some_and(|value| value < wanted.as_f64().unwrap()) => {
                wrong(format!("is less than {wanted}"))
            }
            "maximum" if value.as_f64().is_some_and(|value| value > wanted.as_f64().unwrap()) => {
                wrong(format!("is more than {wanted}"))
            }
            "minLength"
                if value.as_str().is_some_and(|text| (text.len() as u64) < wanted.as_u64().unwrap()) =>
            {
                wrong("is too short".into())
            }
            "required" => {
                let missing = |name: &&Value| value.get(name.as_str().unwrap()).is_none();
                wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(missing)
                    .and_then(|name| wrong(format!("has no {name}")))
            }
            "properties" => {
                let mut members = value.as_object().into_iter().flatten();
                members.find_map(|(name, value)| differs(document, wanted.get(name)?, value))
            }
            "additionalProperties" => {
                let known = |name: &str| rules.get("properties").is_some_and(|all| all.get(name).is_some());
                let mut others = value.as_object().into_iter().flatten().filter(|(name, _)| !known(name));
                match wanted {
                    Value::Bool(true) => None,
                    Value::Bool(false) => {
                        others.next().and_then(|(name, _)| wrong(format!("has a {name:?}")))
                    }
                    schema => others.find_map(|(_, value)| differs(document, schema, value)),
                }
            }
            "items" => {
                let mut items = value.as_array().into_iter().flatten();
                items.find_map(|item| differs(document, wanted, item))
            }
            "anyOf" => {
                let differences: Vec<_> = wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|schema| differs(document, schema, value))
                    .collect();
                if differences.iter().any(Option::is_none) { None } else { wrong(format!("{differences:?}")) }
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("an unknown type: {other}"),
    }
}

#[test]
fn what_differs_is_seen() {
    let document = serde_json::json!({"components": {"schemas": {"N": {"type": "integer", "minimum": 1}}}});
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "a": {"$ref": "#/components/schemas/N"},
            "b": {"type": "array", "items": {"anyOf": [{"const": 1}, {"enum": ["x", null]}]}},
        },
        "required": ["a"],
        "additionalProperties": false,
    });
    let differs = |value: Value| differs(&document, &schema, &value).is_some();
    for good in [serde_json::json!({"a": 1}), serde_json::json!({"a": 7, "b": [1, "x", null]})] {
        assert!(!differs(good));
    }
    for bad in [
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!({"a": 0}),
        serde_json::json!({"a": "1"}),
        serde_json::json!({"a": 1, "b": {}}),
        serde_json::json!({"a": 1, "b": ["y"]}),
        serde_json::json!({"a": 1, "c": 1}),
    ] {
        assert!(differs(bad.clone()), "{bad}");
    }
}
