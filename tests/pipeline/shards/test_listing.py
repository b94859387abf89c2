import os
from collections import Counter

import pytest

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.links import DANGLING, HIDDEN, OUTSIDE, ROUND, SPECIAL, PassedOver
from speechmill.pipeline.shards.listing import NO_TAR, PACKED_TOO, Shard, list_shards
from speechmill.pipeline.storage import Storage
from tests.corpus import tar_bytes


@pytest.fixture
def folder(tmp_path):
    for name in ("a-000.tar", "a-001.tar", "b/a-002.tar", "b/notes.txt", "b/c.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar_bytes([]))
    return tmp_path


def names(sources, storage):
    return [shard.url.rpartition("/")[2] for shard in list_shards(sources, storage)]


def names_and_reasons(folder, sources, storage):
    """The shards of sources below a folder, and why other files there are none."""
    left: list[PassedOver] = []
    found = [shard.url for shard in list_shards(sources, storage, left)]
    assert len({one.url for one in left}) == len(left)
    return [url.removeprefix(f"{folder}/") for url in found], {
        one.url.removeprefix(f"{folder}/"): one.reason for one in left
    }


def test_a_folder_lists_every_tar_below_it_sorted(folder, storage):
    assert names([str(folder)], storage) == ["a-000.tar", "a-001.tar", "a-002.tar", "c.tar.gz"]


def test_brace_ranges_globs_files_and_manifests_name_the_same_shards(folder, storage):
    (folder / "list.txt").write_text("# two\na-000.tar\n\na-{001..001}.tar\n")
    expected = ["a-000.tar", "a-001.tar"]
    for source in ("a-{000..001}.tar", "*.tar", "list.txt"):
        assert names([f"{folder}/{source}"], storage) == expected
    assert names([f"{folder}/**/*.tar"], storage)[-1] == "a-002.tar"


def test_a_shard_named_twice_is_listed_once(folder, storage):
    assert names([str(folder), f"{folder}/a-000.tar"], storage).count("a-000.tar") == 1


def test_missing_shards_are_named(folder, storage):
    with pytest.raises(InputError, match=r"2 of 4 shards do not exist: .*a-002\.tar, .*a-003"):
        list_shards([f"{folder}/a-{{000..003}}.tar"], storage)


@pytest.mark.parametrize("source", ["empty/", "*.nothing.tar"])
def test_a_source_without_tars_is_refused_with_a_cure(folder, storage, source):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="speechmill pack"):
        list_shards([f"{folder}/{source}"], storage)


@pytest.mark.parametrize("name", ["a[1]", "a{1,2}", "what?"])
def test_a_folder_whose_name_has_marks_of_a_pattern_is_a_folder(tmp_path, storage, name):
    (tmp_path / name).mkdir()
    tar = tmp_path / name / "x.tar"
    tar.write_bytes(tar_bytes([("a.txt", b"")]))
    for source in (tar, tar.parent, f"{tar.parent}/"):
        assert [shard.url for shard in list_shards([str(source)], storage)] == [str(tar)]


def test_a_list_in_braces_may_be_longer_than_a_file_name(tmp_path, storage):
    names = [f"shard-{number:06d}.tar" for number in range(30)]
    for name in names:
        (tmp_path / name).touch()
    shards = list_shards([f"{tmp_path}/{{{','.join(names)}}}"], storage)
    assert [shard.stem + ".tar" for shard in shards] == names


def test_naming_1000_shards_takes_one_listing_and_no_request_per_shard(monkeypatch):
    storage = Storage()
    for number in range(1000):
        storage.put(f"memory://many/{number:04d}.tar", b"")
    calls = []
    listing = Storage.list_files

    def counted(self, url, prefix=""):
        calls.append(url)
        return listing(self, url, prefix)

    monkeypatch.setattr(Storage, "list_files", counted)
    monkeypatch.setattr(Storage, "info", None)
    assert len(list_shards(["memory://many/{0000..0999}.tar"], storage)) == 1000
    assert len(calls) == 1


def test_the_name_of_a_part_changes_with_url_size_and_etag_only():
    shard = Shard("s3://b/x.tar", 10, "e")
    others = [Shard("s3://c/x.tar", 10, "e"), Shard("s3://b/x.tar", 11, "e")]
    others.append(Shard("s3://b/x.tar", 10, "f"))
    assert shard.name == Shard("s3://b/x.tar", 10, "e").name
    assert len({shard.name, *(other.name for other in others)}) == 4
    assert shard.name.startswith("x-")


def lines_of(folder, *lines, name="list.txt"):
    (folder / name).write_text("\n".join(lines))
    return str(folder / name)


def test_a_list_names_tars_below_it_beside_it_and_of_its_machine(folder, storage, monkeypatch):
    listed = lines_of(
        folder / "b", "../a-000.tar", "./a-00{2..2}.tar", f"file://{folder}/a-001.tar"
    )
    assert names([listed], storage) == ["a-001.tar", "a-000.tar", "a-002.tar"]
    monkeypatch.chdir(folder / "b")
    assert names(["list.txt"], storage) == names([listed], storage)


def test_a_list_in_a_store_names_objects_of_that_store_only(storage):
    for name in ("x.tar", "b/y.tar"):
        storage.put(f"memory://lists/{name}", tar_bytes([]))
    storage.put("memory://lists/good.txt", b"x.tar\nb/y.tar\nmemory://lists/x.tar")
    assert names(["memory://lists/good.txt"], storage) == ["y.tar", "x.tar"]
    for line in ("/etc/x.tar", "file:///etc/x.tar", "s3://other/x.tar"):
        storage.put("memory://lists/bad.txt", f"x.tar\n{line}".encode())
        with pytest.raises(InputError, match=r"bad\.txt, line 2: .*copy the list"):
            names(["memory://lists/bad.txt"], storage)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("list.txt", r"list\.txt names itself: .*list\.txt -> .*list\.txt"),
        ("./b/../list.txt", r"list\.txt names itself"),
        ("{0..99999999999}.tar", "line 1: .* stands for over 1,000,000 names"),
        ("{a,b}" * 60 + ".tar", "line 1: .* stands for over 1,000,000 names"),
        ("{" * 5000 + "," + "}" * 5000, "line 1: cannot expand the braces"),
        ("{a,b.tar", "line 1: cannot expand the braces"),
        ("a\0.tar", "line 1: .* holds a NUL byte"),
        ("gs://a/x.tar", "gcsfs"),
    ],
)
def test_a_list_that_cannot_be_expanded_is_refused_in_one_line(folder, storage, line, message):
    with pytest.raises(InputError, match=message) as error:
        list_shards([lines_of(folder, line)], storage)
    assert len(str(error.value).splitlines()) == 1


def test_a_list_that_names_itself_by_ever_longer_paths_ends(folder, storage):
    (folder / "b" / "up").symlink_to("..")
    with pytest.raises(InputError, match="lists name lists, 20 deep"):
        list_shards([lines_of(folder, "b/up/list.txt", "b/up/b/up/list.txt")], storage)


def test_two_tars_of_one_part_are_refused(folder, storage, monkeypatch):
    monkeypatch.setattr(Shard, "name", property(lambda shard: shard.stem[:2]))
    with pytest.raises(InputError, match=r"a-000\.tar and .*a-001\.tar would both be written to"):
        list_shards([str(folder)], storage)


def test_hidden_files_of_a_folder_or_glob_are_no_shards(folder, storage):
    (folder / "._a-000.tar").write_bytes(b"macOS")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "old.tar").write_bytes(tar_bytes([]))
    assert names([str(folder)], storage) == ["a-000.tar", "a-001.tar", "a-002.tar", "c.tar.gz"]
    assert names([f"{folder}/*.tar"], storage) == ["a-000.tar", "a-001.tar"]
    assert names([f"{folder}/.trash/"], storage) == ["old.tar"]


def test_linked_folders_and_what_is_no_shard_are_named(folder, storage):
    for name, target in {
        "out": "../..",
        "to-b": "b",
        "y.tar": "b/a-002.tar",
    }.items():
        (folder / name).symlink_to(target)
    for name in ("a.zip", ".hidden", "pack.json"):
        (folder / name).write_bytes(b"PK")
    (folder / "b" / "a-002.tgz").write_bytes(b"the same again")
    assert list_shards([str(folder)], storage) == list_shards(
        [f"{folder}/*.tar", f"{folder}/b/*.tar*"], storage
    )
    _, reasons = names_and_reasons(folder, [str(folder)], storage)
    assert reasons == {
        "a.zip": NO_TAR,
        ".hidden": HIDDEN,
        "b/notes.txt": NO_TAR,
        "out": OUTSIDE,
        "to-b": ROUND,
        "b/a-002.tgz": PACKED_TOO,
    }


def test_a_link_to_nothing_costs_no_other_shard(folder, storage):
    for name, target in {"a-002.tar": "no", "loop.tar": "loop.tar", "b/x.tar": "y" * 300}.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.tar")
    links = {"a-002.tar": DANGLING, "loop.tar": DANGLING}
    found, reasons = names_and_reasons(folder, [str(folder)], storage)
    assert found == ["a-000.tar", "a-001.tar", "b/a-002.tar", "b/c.tar.gz"]
    others = {"b/x.tar": DANGLING, "pipe.tar": SPECIAL, "b/notes.txt": NO_TAR}
    assert reasons == links | others
    assert names_and_reasons(folder, [f"{folder}/*.tar"], storage) == (found[:2], links)
    assert names([f"{folder}/a-{{000..001}}.tar"], storage) == found[:2]
    with pytest.raises(InputError, match=r"1 of 2 shards do not exist: .*a-002\.tar"):
        list_shards([f"{folder}/a-{{001..002}}.tar"], storage)
    for name in ("a-000.tar", "a-001.tar"):
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"no \.tar found at .*a-002\.tar is a link to nothing"):
        list_shards([f"{folder}/a-*.tar"], storage)


def test_no_folder_is_read_twice_whatever_the_links_are(folder, storage):
    """A folder behind a link is read if no path without links leads to it."""
    for name in (".store/in/x.tar", ".store/y.tar"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"")
    links = {"h1": ".store/in", "h2": ".store", "b/round": "../b", "b/up": "..", "b/n": "a-002.tar"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    found, reasons = names_and_reasons(folder, [str(folder)], storage)
    assert found[4:] == ["h1/x.tar", "h2/y.tar"]
    assert reasons.pop(".store") == HIDDEN
    assert reasons == {"b/n": NO_TAR, "b/notes.txt": NO_TAR} | dict.fromkeys(
        ("h2/in", "b/round", "b/up"), ROUND
    )


def test_only_a_link_that_the_user_names_leads_out_of_a_folder(folder, storage, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "z.tar").write_bytes(b"")
    source = folder / "b" / "only"
    source.mkdir()
    for name, target in {"z.tar": outside / "z.tar", "all": outside}.items():
        (source / name).symlink_to(target)
    _, reasons = names_and_reasons(folder, [str(folder)], storage)
    assert reasons == {"b/only/z.tar": OUTSIDE, "b/only/all": OUTSIDE, "b/notes.txt": NO_TAR}
    for named in ("z.tar", "*.tar", "**/*.tar", "all/z.tar", "all/"):
        assert names([f"{source}/{named}"], storage) == ["z.tar"]
    with pytest.raises(InputError, match=r"leads out .* by a glob, such as /.*/only/\*\*/\*\.tar$"):
        list_shards([f"{source}/"], storage)
    both = [str(folder), f"{source}/z.tar", f"{source}/all/"]
    found, reasons = names_and_reasons(folder, both, storage)
    assert found[-3:] == ["b/c.tar.gz", "b/only/all/z.tar", "b/only/z.tar"]
    assert reasons == {"b/notes.txt": NO_TAR}


def test_a_folder_is_read_once_and_no_path_below_it_is_looked_up(folder, storage, monkeypatch):
    looks: Counter[str] = Counter()
    for name in ("stat", "lstat", "scandir"):
        look = getattr(os, name)

        def counted(path, *args, name=name, look=look, **kwargs):
            looks[name] += str(path).startswith(f"{folder}/")
            return look(path, *args, **kwargs)

        monkeypatch.setattr(os, name, counted)
    list_shards([str(folder)], storage)
    assert looks == Counter(scandir=1)  # of b/; what it yields knows its size


def test_a_caller_that_takes_no_list_warns_of_the_shards_that_it_passes_over(
    folder, storage, caplog
):
    (folder / "a-002.tar").symlink_to("no")
    list_shards([str(folder)], storage)
    [warning] = caplog.messages
    assert warning == f"passed over 1, {DANGLING}, such as {folder}/a-002.tar"


def test_a_packed_tar_is_a_shard_of_its_own_name_without_suffix(folder, storage):
    (folder / "d.tgz").write_bytes(b"")
    shards = list_shards(
        [f"{folder}/b/c.tar.gz", f"{folder}/d.tgz", f"{folder}/a-000.tar"], storage
    )
    assert [shard.stem for shard in shards] == ["a-000", "c", "d"]


def test_the_part_of_a_hidden_tar_that_the_user_names_is_not_hidden(folder, storage):
    (folder / ".x.tar").write_bytes(b"")
    [shard] = list_shards([f"{folder}/.x.tar"], storage)
    assert shard.name.startswith("_x-")
