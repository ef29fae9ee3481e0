//! A data root of Docker's, as 20.10 leaves it, built by code, and what is read of it.

use crate::support::*;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use thinlayer_image::{Assembler, Digest, DockerStore, Error, ErrorKind, Splitter, chain_ids};

struct Root {
    guard: tempfile::TempDir,
    layers: Vec<Vec<u8>>,
    chain: Vec<Digest>,
    image: Digest,
}

const CONTAINER: &str = "c0ffee0000000000000000000000000000000000000000000000000000000001";

impl Root {
    fn path(&self) -> &Path {
        self.guard.path()
    }

    fn store(&self) -> DockerStore {
        DockerStore::open(self.path(), "devicemapper").unwrap()
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        put(self.path(), name, content);
    }

    fn layer(&self, index: usize, file: &str) -> PathBuf {
        self.path().join("image/devicemapper/layerdb/sha256").join(self.chain[index].hex()).join(file)
    }

    fn container(&self, id: &str, change: impl FnOnce(&mut Value)) {
        let mut config = json!({
            "StreamConfig": {}, "State": {"Running": true, "Pid": 1}, "ID": id, "Created": "2020-01-01T00:00:00.5Z",
            "Config": {"Hostname": "c0ffee", "Cmd": ["sh"], "Image": "web:1", "Env": ["A=1"]},
            "Image": self.image, "Name": format!("/name-{}", &id[..4]), "Driver": "devicemapper", "OS": "linux",
        });
        change(&mut config);
        self.put(&format!("containers/{id}/config.v2.json"), config.to_string());
        for (file, content) in
            [("mount-id", id), ("init-id", &format!("{id}-init")), ("parent", &self.chain[1].to_string())]
        {
            self.put(&format!("image/devicemapper/layerdb/mounts/{id}/{file}"), content);
        }
    }
}

fn put(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// One image of two layers with two names, one without a name and without layers, one container.
fn root() -> Root {
    let guard = tempfile::tempdir().unwrap();
    let layers = vec![layer("one", "1"), layer("two", "2")];
    let chain = chain_ids(&[Digest::of(&layers[0]), Digest::of(&layers[1])]);
    let config = config(&layers).to_string();
    let image = Digest::of(config.as_bytes());
    let root = Root { guard, layers, chain, image };
    root.put(&format!("image/devicemapper/imagedb/content/sha256/{}", image.hex()), &config);
    let empty = crate::support::config(&[]).to_string();
    root.put(
        &format!("image/devicemapper/imagedb/content/sha256/{}", Digest::of(empty.as_bytes()).hex()),
        &empty,
    );
    for (index, tar) in root.layers.iter().enumerate() {
        let name =
            |file: &str| format!("image/devicemapper/layerdb/sha256/{}/{file}", root.chain[index].hex());
        let (_, record) =
            Splitter::new(&tar[..], Vec::new(), thinlayer_image::SplitOptions::default()).finish().unwrap();
        root.put(&name("cache-id"), format!("{index:064x}"));
        root.put(&name("diff"), Digest::of(tar).to_string());
        root.put(&name("size"), "12");
        root.put(&name("tar-split.json.gz"), record);
        if index > 0 {
            root.put(&name("parent"), root.chain[index - 1].to_string());
        }
    }
    let repositories = json!({"Repositories": {
        "web": {"web:1": image, "web:latest": image, format!("web@{image}"): image},
    }});
    root.put("image/devicemapper/repositories.json", repositories.to_string());
    root.container(CONTAINER, |_| {});
    root
}

#[test]
fn images_are_found_with_names_layers_and_records() {
    let root = root();
    let store = root.store();
    assert_eq!(DockerStore::drivers(root.path()).unwrap(), ["devicemapper"]);
    let listed = store.images().unwrap();
    assert_eq!((listed.items.len(), &listed.findings[..]), (2, &[][..]));
    let image = &listed.items[0];
    let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["web:1", "web:latest"]);
    assert_eq!((image.id, image.platform.to_string().as_str()), (root.image, "linux/amd64"));
    assert!(listed.items[1].names.is_empty() && listed.items[1].layers.is_empty());
    for (index, layer) in image.layers.iter().enumerate() {
        assert_eq!((layer.chain_id, layer.size), (root.chain[index], Some(12)));
        assert_eq!(layer.cache_id, format!("{index:064x}"));
        let record = store.tar_split(layer).unwrap().unwrap();
        let content = ["1", "2"][index];
        let tree =
            move |_: &[u8]| -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(content.as_bytes())) };
        let mut tar = Vec::new();
        Assembler::new(record, tree, Some(layer.diff_id)).unwrap().read_to_end(&mut tar).unwrap();
        assert_eq!(tar, root.layers[index]);
    }
    for wanted in [
        "web",
        "web:1",
        "docker.io/library/web:latest",
        &root.image.to_string(),
        &root.image.hex(),
        &root.image.hex()[..12],
    ] {
        assert_eq!(store.image(wanted).unwrap().id, root.image, "{wanted}");
    }
    for wanted in ["other", "web:2", "abc", "ffffffffffff"] {
        let error = store.image(wanted).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("web:1"), "{error}");
    }
}

#[test]
fn containers_are_found_with_their_layers() {
    let root = root();
    let container = root.store().container("name-c0ff").unwrap();
    assert_eq!(container.id, CONTAINER);
    assert_eq!((container.image, container.image_name.as_str()), (Some(root.image), "web:1"));
    assert_eq!((container.mount_id.as_str(), container.running), (CONTAINER, true));
    assert_eq!(container.init_id, Some(format!("{CONTAINER}-init")));
    assert_eq!(container.layers.len(), 2);
    assert_eq!(container.config["Env"], json!(["A=1"]));
    assert_eq!(root.store().container("c0ffee").unwrap(), container);
    let second = CONTAINER.replace("01", "02");
    root.container(&second, |_| {});
    let error = root.store().container("c0ffee").unwrap_err();
    assert!(error.to_string().contains("several containers"), "{error}");
}

/// Docker ignores them at its start, too.
#[test]
fn containers_of_other_drivers_are_left_out() {
    let root = root();
    root.container(&CONTAINER.replace("01", "02"), |config| config["Driver"] = json!("overlay2"));
    let listed = root.store().containers().unwrap();
    assert_eq!((listed.items.len(), listed.findings.len()), (1, 0));
}

#[test]
fn another_drivers_store_is_told_with_those_that_there_are() {
    let root = root();
    let error = DockerStore::open(root.path(), "overlay2").unwrap_err();
    assert!(
        error.to_string().contains("overlay2") && error.to_string().contains("for devicemapper"),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    let error = DockerStore::open(empty.path(), "devicemapper").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("data root"), "{error}");
    assert!(DockerStore::open(root.path(), "../image/devicemapper").is_err());
    fs::rename(root.path().join("image/devicemapper"), root.path().join("image/overlay2")).unwrap();
    assert_eq!(DockerStore::open(root.path(), "overlay2").unwrap().images().unwrap().items.len(), 2);
}

/// Each damage by itself: what it hits is told with its path, the rest works.
#[test]
fn damage_is_told_and_the_rest_works() {
    type Damage = (&'static str, fn(&Root));
    let damages: [Damage; 9] = [
        ("cache-id", |root| fs::remove_file(root.layer(0, "cache-id")).unwrap()),
        ("cache-id", |root| fs::write(root.layer(1, "cache-id"), "../../etc").unwrap()),
        ("cache-id", |root| fs::write(root.layer(1, "cache-id"), "").unwrap()),
        ("is no digest", |root| fs::write(root.layer(1, "diff"), "sha256:0").unwrap()),
        ("the digest", |root| fs::write(root.layer(1, "diff"), Digest::of(b"x").to_string()).unwrap()),
        ("the digest", |root| fs::remove_file(root.layer(1, "parent")).unwrap()),
        ("is missing", |root| fs::remove_dir_all(root.layer(0, "")).unwrap()),
        ("1024 bytes", |root| fs::write(root.layer(1, "diff"), vec![b'a'; 5000]).unwrap()),
        ("symbolic link", |root| {
            fs::remove_file(root.layer(1, "diff")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", root.layer(1, "diff")).unwrap();
        }),
    ];
    for (why, damage) in damages {
        let root = root();
        damage(&root);
        let images = root.store().images().unwrap();
        assert_eq!((images.items.len(), images.findings.len()), (1, 1), "{why}: {:?}", images.findings);
        let finding = &images.findings[0];
        assert!(
            finding.path.ends_with(format!("imagedb/content/sha256/{}", root.image.hex())),
            "{finding:?}"
        );
        assert!(finding.why.contains(why) && !finding.why.contains('\n'), "{why}: {finding:?}");
        let containers = root.store().containers().unwrap();
        assert_eq!((containers.items.len(), containers.findings.len()), (0, 1), "{why}");
        let finding = &containers.findings[0];
        assert!(
            finding.path.ends_with(CONTAINER) && finding.why.contains(&format!("in layer {CONTAINER}")),
            "{finding:?}"
        );
        let error = root.store().image("web:1").unwrap_err();
        assert!(error.to_string().contains("web:1") && error.to_string().contains(why), "{why}: {error}");
    }
}

#[test]
fn a_config_or_a_list_that_is_damaged_is_told() {
    let root = root();
    let config = root.path().join(format!("image/devicemapper/imagedb/content/sha256/{}", root.image.hex()));
    let good = fs::read(&config).unwrap();
    fs::write(&config, [&good[..], b" "].concat()).unwrap();
    let listed = root.store().images().unwrap();
    assert_eq!((listed.items.len(), listed.findings.len()), (1, 1));
    assert!(matches!(root.store().image("web").unwrap_err(), Error::In { .. }));

    fs::remove_file(&config).unwrap();
    let listed = root.store().images().unwrap();
    assert!(listed.findings[0].path.ends_with("repositories.json"), "{:?}", listed.findings);
    assert!(listed.findings[0].why.contains("web:1, web:latest"), "{:?}", listed.findings);

    fs::write(&config, good).unwrap();
    for bad in ["", "{\"Repositories\":[]}", "{\"Repositories\":{\"web\":{\"WEB\":\"x\"}}}"] {
        root.put("image/devicemapper/repositories.json", bad);
        let listed = root.store().images().unwrap();
        assert_eq!((listed.items.len(), listed.findings.len()), (2, 1), "{bad}");
        assert_eq!(root.store().image(&root.image.hex()).unwrap().names, []);
    }
    fs::remove_file(root.path().join("image/devicemapper/repositories.json")).unwrap();
    assert!(root.store().images().unwrap().findings.is_empty());
}

#[test]
fn containers_that_are_damaged_are_told() {
    let root = root();
    let other = |last: &str| CONTAINER.replace("01", last);
    root.put(&format!("containers/{}/config.v2.json", other("02")), "{");
    root.container(&other("03"), |config| config["ID"] = json!("x"));
    root.container(&other("04"), |_| {});
    fs::remove_dir_all(root.path().join("image/devicemapper/layerdb/mounts").join(other("04"))).unwrap();
    fs::create_dir(root.path().join("containers").join(other("05"))).unwrap();
    let listed = root.store().containers().unwrap();
    assert_eq!(listed.items.len(), 1);
    let why: Vec<&str> = listed.findings.iter().map(|finding| finding.why.as_str()).collect();
    assert_eq!(why.len(), 4, "{why:?}");
    assert!(why[0].contains("config.v2.json") && why[1].contains("another container"), "{why:?}");
    assert!(
        why[1].contains("its files are in layer")
            && why[2].contains("mount-id")
            && why[3].contains("missing"),
        "{why:?}"
    );
}
