//! The committed base and overlays, put together by kustomize.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test may run programs and say why it is skipped"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Finds kubectl, which has kustomize inside: among the assets of the tests, else on the path.
fn kubectl() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let own = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let made = std::fs::read_dir(workspace.join("target/kube-assets")).into_iter().flatten().flatten();
    let places = own.into_iter().chain(made.map(|entry| entry.path())).map(|folder| folder.join("kubectl"));
    let found = places.chain([PathBuf::from("kubectl")]).find(|program| {
        Command::new(program).args(["version", "--client"]).output().is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        eprintln!("skipped: there is no kubectl");
    }
    found
}

/// Returns the documents that a folder of `deploy/` comes to.
fn built(kubectl: &Path, folder: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(folder);
    let output = Command::new(kubectl).arg("kustomize").arg(&path).env_clear().output().unwrap();
    assert!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split("\n---\n").map(str::to_owned).collect()
}

/// Returns kind and name of a document.
fn identity(document: &str) -> (String, String) {
    let field = |name: &str| document.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    (field("kind: "), field("  name: "))
}

fn jobs(documents: &[String]) -> Vec<&String> {
    documents.iter().filter(|document| identity(document).0 == "CronJob").collect()
}

#[test]
fn every_job_of_the_base_is_a_dry_run_and_none_of_production() {
    let Some(kubectl) = kubectl() else { return };
    let base = built(&kubectl, "base");
    assert_eq!(jobs(&base).len(), 13);
    for job in jobs(&base) {
        assert_eq!(job.matches("- --dry-run\n").count(), 1, "{job}");
    }
    for overlay in ["overlays/production", "overlays/rootless"] {
        let live = built(&kubectl, overlay);
        assert_eq!(jobs(&live).len(), 13);
        for (job, dry) in jobs(&live).iter().zip(jobs(&base)) {
            assert!(!job.contains("--dry-run"), "{overlay}: {job}");
            if overlay == "overlays/production" {
                assert_eq!(**job, dry.replace("            - --dry-run\n", ""), "nothing else is changed");
            }
        }
        let identities = |documents: &[String]| documents.iter().map(|one| identity(one)).collect::<BTreeSet<_>>();
        assert_eq!(identities(&live), identities(&base));
        assert_eq!(identities(&live).len(), live.len(), "every object once");
    }
}

#[test]
fn without_root_nothing_is_root_and_no_capability_is_left() {
    let Some(kubectl) = kubectl() else { return };
    let rootless = built(&kubectl, "overlays/rootless").join("\n");
    assert!(!rootless.contains("runAsUser: 0\n") && !rootless.contains("runAsNonRoot: false"));
    for capability in ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP"] {
        assert!(!rootless.contains(capability), "{capability}");
        assert!(built(&kubectl, "base").join("\n").contains(capability));
    }
}

/// The plan's own commands: `kubectl apply -k` of one folder; what is added goes beside it.
#[test]
fn what_is_added_goes_beside_production() {
    let Some(kubectl) = kubectl() else { return };
    let production: Vec<_> = built(&kubectl, "overlays/production").iter().map(|one| identity(one)).collect();
    for overlay in ["overlays/ingress", "overlays/monitoring"] {
        for document in built(&kubectl, overlay) {
            assert!(!production.contains(&identity(&document)), "{overlay}: {document}");
        }
    }
}
