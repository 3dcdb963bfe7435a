-- Which way an operation of a two-way run goes, 'a-to-b' or 'b-to-a'; NULL in a one-way run, whose iteration says it.
ALTER TABLE sync_operations ADD COLUMN direction TEXT;
