//! `relatch doctor NAME`: the address comes from the file or the keeper that knows the name.

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

#[test]
fn a_name_of_the_file_is_examined_with_its_query_and_its_headers() {
    let (home, peer) = (Home::new(), echo());
    let file = home.path().join(".config/relatch/relatch.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let url = format!("{}?key=s3cret", peer.url());
    let text = format!("[server.gmail]\nurl = \"{url}\"\nheaders = {{ X-Key = \"s3cret-too\" }}\n");
    std::fs::write(&file, text).unwrap();
    let (_, out, err) = home.typed(&["doctor", "gmail", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    assert_eq!(report["server"]["name"], "scripted");
    assert!(!out.contains("s3cret"), "{out}");
    let got = peer.got();
    let whole = |got: &&crate::stage::Got| got.target.contains("?key=s3cret");
    assert!(got.iter().any(|got| got.header("x-key") == Some("s3cret-too") && whole(&got)));
}
