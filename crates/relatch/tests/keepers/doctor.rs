//! `relatch doctor NAME`: the address comes from the keeper that knows the name.

use serde_json::Value;

use crate::stage::{Home, Serve, echo};

#[test]
fn a_name_is_the_server_behind_the_keeper_and_not_the_keeper() {
    let (home, peer) = (Home::new(), echo());
    let hidden = format!("{}?key=s3cret", peer.url());
    let _serve = Serve::start(&home, &[&format!("gmail={}", peer.url()), &format!("hidden={hidden}")]);

    let (_, out, err) = home.typed(&["doctor", "gmail", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    assert_eq!(report["url"], peer.url());
    assert_eq!(report["server"]["name"], "scripted");

    let (code, out, err) = home.typed(&["doctor", "hidden"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("has a query, which keepers don't show"), "{err}");

    let (code, _, err) = home.typed(&["doctor", "nobody"]);
    assert_eq!(code, 2);
    assert!(err.contains("The known ones are `gmail`, `hidden`"), "{err}");
}
