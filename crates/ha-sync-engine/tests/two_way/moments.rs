//! What people do between the scan and the moment at which a plan is carried out.

use std::fs;

use ha_sync_core::baseline::Side::{A, B};
use ha_sync_core::record::Status;

use crate::cases::{names, with};
use crate::world::{Ran, Trouble, World};

impl World {
    /// Runs once, and does something when the first operations are announced: the scan is done, and nothing else yet.
    fn run_while(&mut self, edit: impl FnOnce() + Send) -> Ran {
        let mut edit = Some(edit);
        let hook = move |_| {
            if let Some(edit) = edit.take() {
                edit();
            }
        };
        self.run_with(Trouble::default(), Some(Box::new(hook)))
    }
}

#[test]
fn what_comes_into_a_directory_that_is_about_to_be_replaced_stays() {
    for (path, content) in [("d/new", "new"), ("d/e/new", "new"), ("d/e/y", "edited, and longer")] {
        let mut world = with(&["d/x", "d/e/y"]);
        fs::remove_dir_all(world.path(A, "d")).unwrap();
        world.write(A, "d", "a file", 10);
        let full = world.path(B, path);
        let ran = world.run_while(move || fs::write(full, content).unwrap());
        assert_eq!(ran.told(), ["a-to-b update d FAILED changed since scan"], "{path}");
        assert_eq!(world.text(B, path).as_deref(), Some(content), "it is where it was put");
        assert_eq!(world.temporary(), Vec::<String>::new());
        // Now it is seen: a change in the directory wins over the file.
        assert_eq!(world.run().result.unwrap().status, Status::Success);
        for side in [A, B] {
            assert_eq!(world.text(side, path).as_deref(), Some(content));
        }
        assert_eq!(names(&world.tree(A)), names(&world.tree(B)));
        assert!(world.run().told().is_empty());
    }
}
