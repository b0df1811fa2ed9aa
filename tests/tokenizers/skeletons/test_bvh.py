"""BVH files: by hand, any order of angles, bvhio and real files as oracles, and through a tokenizer."""

import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from anyglot.assets import cache_root
from anyglot.config import typed
from anyglot.errors import ConfigError, MediaError
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.motion import MotionConfig, MotionTokenizer
from anyglot.tokenizers.skeletons import humanml3d, rotating
from anyglot.tokenizers.skeletons.bvh import Hierarchy, format_hierarchy, parse_hierarchy, read_bvh, write_bvh
from anyglot.tokenizers.skeletons.skeleton import Animation, Skeleton

ARM = """HIERARCHY
ROOT Shoulder
{
  OFFSET 0 5 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Elbow
  {
    OFFSET 10 0 0
    CHANNELS 3 Yrotation Xrotation Zrotation
    End Site
    {
      OFFSET 10 0 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.05
0 0 0 0 0 0 0 0 0
1 2 3 90 0 0 0 0 -90
"""


def test_an_arm_by_hand():
    animation, hierarchy = read_bvh(ARM.encode(), unit=0.01)
    assert animation.fps == pytest.approx(20)
    assert hierarchy.skeleton.names == ["Shoulder", "Elbow", "Elbow end"]
    assert hierarchy.turning == [0, 1]
    assert hierarchy.order(1) == "YXZ"
    found = animation.positions()
    np.testing.assert_allclose(found[0], [(0, 0, 0), (0.1, 0, 0), (0.2, 0, 0)], atol=1e-9)
    np.testing.assert_allclose(found[1], [(0.01, 0.02, 0.03), (0.01, 0.12, 0.03), (0.11, 0.12, 0.03)], atol=1e-9)


def rig(orders: list[str]) -> Hierarchy:
    """A chain of joints, each turned in an order of its own, and a side branch."""
    generator = np.random.default_rng(0)
    names = [f"joint {place}".replace(" ", "_") for place in range(len(orders))]
    parents = [-1, *range(len(orders) - 1)]
    channels = [[f"{axis}rotation" for axis in order] for order in orders]
    channels[0] = ["Zposition", "Xposition", "Yposition", *channels[0]]
    skeleton = Skeleton(
        [*names, "side", "side end"],
        [*parents, 0, len(orders)],
        generator.standard_normal((len(orders) + 2, 3)).round(6),
    )
    return Hierarchy(skeleton, [*channels, ["Xrotation", "Yrotation", "Zrotation"], []])


def moving(hierarchy: Hierarchy, frames: int = 7, fps: float = 40.0) -> Animation:
    generator = np.random.default_rng(1)
    joints = len(hierarchy.skeleton.names)
    turns = Rotation.random(frames * joints, random_state=0).as_matrix().reshape(frames, joints, 3, 3)
    still = [joint for joint in range(joints) if joint not in hierarchy.turning]
    turns[:, still] = np.eye(3)
    return Animation(hierarchy.skeleton, turns, generator.standard_normal((frames, 3)), fps)


def test_files_of_all_orders_come_back(tmp_path):
    hierarchy = rig(["".join(order) for order in itertools.permutations("XYZ")])
    animation = moving(hierarchy)
    write_bvh(animation, hierarchy, tmp_path / "a.bvh")
    again, read = read_bvh(tmp_path / "a.bvh")
    assert read.channels == hierarchy.channels
    assert read.skeleton.parents == hierarchy.skeleton.parents
    assert again.fps == pytest.approx(40)
    np.testing.assert_allclose(again.positions(), animation.positions(), atol=1e-4)
    np.testing.assert_allclose(again.rotations, animation.rotations, atol=1e-6)
    assert parse_hierarchy(format_hierarchy(read)).channels == hierarchy.channels


def test_bvhio_finds_the_same_positions(tmp_path):
    bvhio = pytest.importorskip("bvhio", reason="bvhio is not installed; it is only an oracle of this test")
    hierarchy = rig(["ZXY", "YXZ", "XZY"])
    animation = moving(hierarchy)
    write_bvh(animation, hierarchy, tmp_path / "a.bvh")
    oracle = bvhio.readAsHierarchy(str(tmp_path / "a.bvh"))
    for frame in range(len(animation.root)):
        oracle.loadPose(frame)
        found = {joint.Name: np.array(joint.PositionWorld) for joint, _, _ in oracle.layout()}
        for joint, name in enumerate(hierarchy.skeleton.names):
            if name in found:
                np.testing.assert_allclose(found[name], animation.positions()[frame, joint], atol=1e-4)
    assert {"joint_0", "joint_2", "side"} <= set(found)


def test_real_files_come_back(tmp_path):
    folders = [cache_root() / "debian", Path(os.environ.get("ANYGLOT_ASSETS") or "none")]
    packages = [path for folder in folders for path in folder.glob("assimp-testmodels_*.deb")]
    if not packages:
        pytest.skip(f"no assimp-testmodels_*.deb in {folders[0]}: `apt-get download assimp-testmodels` there")
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(tmp_path)], check=True)
    files = sorted((tmp_path / "usr/share/assimp/models/BVH").glob("*.bvh"))
    assert len(files) == 3
    for file in files[:1] + files[2:]:
        animation, hierarchy = read_bvh(file)
        assert len(animation.root) > 2000
        assert 18 < np.ptp(animation.positions()[0], axis=0)[1] < 200  # inches or centimetres of a standing person
        few = Animation(animation.skeleton, animation.rotations[::50], animation.root[::50], animation.fps)
        write_bvh(few, hierarchy, tmp_path / "again.bvh")
        again, _ = read_bvh(tmp_path / "again.bvh")
        np.testing.assert_allclose(again.positions(), few.positions(), atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "SKELETON", "does not begin with HIERARCHY"),
        ("MOTION", "ACTION", "no MOTION"),
        ("Frames: 2", "Frames: 3", "27 numbers|3 frames of 9 numbers are promised, 18"),
        ("-90\n", "\n", "2 frames of 9 numbers are promised, 17"),
        ("90 0 0", "nan 0 0", "NaN"),
        ("90 0 0", "x 0 0", "could not convert"),
        ("3 Yrotation Xrotation Zrotation", "3 Yrotation Xrotation Wrotation", "unknown channel 'Wrotation'"),
        ("3 Yrotation Xrotation Zrotation", "2 Yrotation Xrotation", "three axes or none"),
        ("3 Yrotation Xrotation Zrotation", "3 Xposition Yposition Zposition", "moves against its parent"),
        ("OFFSET 10 0 0", "OFFSET ten 0 0", "no number in its hierarchy"),
        ("OFFSET 10 0 0", "OFFSET nan 0 0", "joint Elbow lies at NaN"),
        ("Frame Time: 0.05", "Frame Time: 0", "a frame takes 0.0 seconds"),
        ("Frame Time: 0.05", "Frame Time: nan", "a frame takes nan seconds"),
        ("Frame Time: 0.05", "Frame Time: inf", "a frame takes inf seconds"),
        ("Frame Time: 0.05", "Frame Time: 1e-320", "a frame takes 1e-320 seconds"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, old, new, message):
    (tmp_path / "bad.bvh").write_text(ARM.replace(old, new, 1))
    with pytest.raises(MediaError, match=rf"bad\.bvh: not a whole BVH file \(.*({message})"):
        read_bvh(tmp_path / "bad.bvh")


def test_joints_in_another_order_than_files_have_keep_their_angles(tmp_path):
    turns = ["Zrotation", "Xrotation", "Yrotation"]
    skeleton = Skeleton(["hips", "left", "right", "left_foot", "right_foot"], [-1, 0, 0, 1, 2], np.eye(5, 3))
    breadth_first = Hierarchy(skeleton, [["Xposition", "Yposition", "Zposition", *turns], *[turns] * 4])
    animation = moving(breadth_first)
    write_bvh(animation, breadth_first, tmp_path / "a.bvh")
    again, read = read_bvh(tmp_path / "a.bvh")
    order = [read.skeleton.names.index(name) for name in skeleton.names]
    np.testing.assert_allclose(again.positions()[:, order], animation.positions(), atol=1e-4)


def test_joints_that_do_not_turn_keep_their_names():
    text = ARM.partition("MOTION")[0].replace("End Site", "JOINT Tip", 1)
    text = text.replace("JOINT Elbow", "JOINT EMOTION { OFFSET 1 0 0 CHANNELS 0 } JOINT Elbow")
    hierarchy = parse_hierarchy(text)
    assert hierarchy.skeleton.names == ["Shoulder", "EMOTION", "Elbow", "Tip"]
    again, _ = read_bvh((format_hierarchy(hierarchy) + "MOTION" + ARM.partition("MOTION")[2]).encode())
    assert again.skeleton.names == hierarchy.skeleton.names
    assert again.skeleton.parents == hierarchy.skeleton.parents


def test_deep_hierarchies_are_written():
    joints = 3000
    channels = [["Xrotation", "Yrotation", "Zrotation"]] * joints
    skeleton = Skeleton([f"j{joint}" for joint in range(joints)], list(range(-1, joints - 1)), np.ones((joints, 3)))
    assert parse_hierarchy(format_hierarchy(Hierarchy(skeleton, channels))).skeleton.parents == skeleton.parents


def test_a_hierarchy_in_a_config_that_is_no_hierarchy_is_a_config_error():
    with pytest.raises(ConfigError, match="hierarchy: no number in its hierarchy"):
        make(features=17, hierarchy=ARM.partition("MOTION")[0].replace("OFFSET 10 0 0", "OFFSET ten 0 0", 1))


def test_frames_that_take_a_year_do_not_fill_the_memory(tmp_path):
    (tmp_path / "a.bvh").write_text(ARM.replace("Frame Time: 0.05", "Frame Time: 3e10"))
    tokenizer = make(features=17, fps=30.0, hierarchy=ARM.partition("MOTION")[0])
    with pytest.raises(MediaError, match=r"a\.bvh: 900000000000 frames at 30 a second, more than max_frames=4096"):
        tokenizer.read(tmp_path / "a.bvh")


def test_files_that_break_off_are_refused(tmp_path):
    for cut in range(0, len(ARM) - 20, 13):
        with pytest.raises(MediaError, match="not a whole BVH file"):
            read_bvh(ARM[:cut].encode())
    with pytest.raises(MediaError, match=r"absent\.bvh: no such file"):
        read_bvh(tmp_path / "absent.bvh")
    extra, _ = read_bvh((ARM + "9 9 9 9 9 9 9 9 9\n").encode())
    assert len(extra.root) == 2  # a row more than promised, as some exporters write, is left out


def test_features_give_back_the_movement_but_for_where_it_starts():
    hierarchy = rig(["ZXY", "YXZ"])
    animation = moving(hierarchy)
    features = rotating.to_features(animation, hierarchy.turning)
    assert features.shape == (7, rotating.width(hierarchy.turning)) == (7, 23)
    again = rotating.to_animation(features, hierarchy.skeleton, hierarchy.turning, 40.0)
    a, b = animation.positions(), again.positions()
    np.testing.assert_allclose(b[..., 1], a[..., 1], atol=1e-5)
    for left, right in itertools.combinations(range(4), 2):
        np.testing.assert_allclose(
            np.linalg.norm(b[:, left] - b[3:4, right], axis=-1),
            np.linalg.norm(a[:, left] - a[3:4, right], axis=-1),
            atol=1e-5,
        )
    np.testing.assert_allclose(rotating.to_features(again, hierarchy.turning), features, atol=1e-5)
    turned = Animation(animation.skeleton, animation.rotations.copy(), animation.root.copy(), 40.0)
    about_y = Rotation.from_euler("y", 1.0).as_matrix()
    turned.rotations[:, 0] = about_y @ turned.rotations[:, 0]
    turned.root = turned.root @ about_y.T + (3, 0, -2)
    np.testing.assert_allclose(rotating.to_features(turned, hierarchy.turning), features, atol=1e-5)


def make(**fields) -> MotionTokenizer:
    network = {"width": 8, "halvings": 1, "blocks": 0}
    mapping = {"network": network, "dim": 4, "quantizer": {"type": "vq", "size": 8, "kmeans_init": False}, **fields}
    return MotionTokenizer(typed(MotionConfig, mapping)).eval()


def test_a_tokenizer_knows_its_skeleton_and_writes_it(tmp_path):
    hierarchy = rig(["ZXY", "YXZ"])
    write_bvh(moving(hierarchy, 12), hierarchy, tmp_path / "a.bvh", unit=0.01)
    tokenizer = make(features=23, fps=40.0, hierarchy=str(tmp_path / "a.bvh"), unit=0.01)
    motion = tokenizer.read(tmp_path / "a.bvh")
    np.testing.assert_array_equal(tokenizer.read((tmp_path / "a.bvh").read_bytes()), motion)
    tokenizer.begin([motion])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "a.bvh").rename(tmp_path / "moved.bvh")
    again = load_tokenizer(tmp_path / "tokenizer")  # the skeleton is in its config
    decoded = again.decode(again.encode([motion]))[0]
    again.write(decoded, tmp_path / "b.bvh")
    read, found = read_bvh(tmp_path / "b.bvh", unit=0.01)
    assert found.channels == hierarchy.channels
    wanted = rotating.to_animation(decoded, again.rig.skeleton, again.rig.turning, 40.0)
    np.testing.assert_allclose(read.positions(), wanted.positions(), atol=1e-4)
    again.write(motion, tmp_path / "c.bvh")
    np.testing.assert_allclose(again.read(tmp_path / "c.bvh"), motion, atol=1e-4)
    assert again.figure.features == 23
    slower = make(features=23, fps=20.0, hierarchy=str(tmp_path / "moved.bvh"), unit=0.01)
    assert len(slower.read(tmp_path / "moved.bvh")) == 6


def test_another_skeleton_is_refused(tmp_path):
    hierarchy, other = rig(["ZXY", "YXZ"]), rig(["ZXY", "YXZ", "XYZ"])
    for name, which in (("a", hierarchy), ("b", other)):
        write_bvh(moving(which), which, tmp_path / f"{name}.bvh")
    tokenizer = make(features=23, fps=40.0, hierarchy=str(tmp_path / "a.bvh"))
    with pytest.raises(MediaError, match=r"b\.bvh: another skeleton \(joint_2\)"):
        tokenizer.read(tmp_path / "b.bvh")
    with pytest.raises(MediaError, match=r"a\.bvh: another skeleton: joint pelvis of HumanML3D's 22"):
        make(skeleton="humanml3d", features=263).read(tmp_path / "a.bvh")
    with pytest.raises(MediaError, match="does not know the skeleton of .bvh"):
        make(features=5).read(tmp_path / "a.bvh")
    with pytest.raises(MediaError, match="knows no skeleton of .bvh"):
        make(features=5).write(np.zeros((3, 5), np.float32), tmp_path / "c.bvh")
    with pytest.raises(ConfigError, match="has 23 features"):
        make(features=24, hierarchy=str(tmp_path / "a.bvh"))
    with pytest.raises(ConfigError, match="not both"):
        make(features=23, skeleton="signs", hierarchy=str(tmp_path / "a.bvh"))
    with pytest.raises(ConfigError, match=r"hierarchy: absent\.bvh"):
        make(features=23, hierarchy="absent.bvh")


def test_the_22_joints_become_humanml3d_s_features(tmp_path):
    """A walk along x of a stiff person, in centimetres, names as SMPL's exporters write them."""
    chains = humanml3d.CHAINS
    parents = {b: a for chain in chains for a, b in itertools.pairwise(chain)}
    skeleton = Skeleton(
        [name.replace("left", "L").replace("right", "R").title() for name in humanml3d.NAMES],
        [parents.get(joint, -1) for joint in range(22)],
        humanml3d.OFFSETS * 20,
    )
    channels = [["Xrotation", "Yrotation", "Zrotation"] for _ in range(22)]
    hierarchy = Hierarchy(skeleton, [["Xposition", "Yposition", "Zposition", *channels[0]], *channels[1:]])
    turns = np.broadcast_to(Rotation.from_euler("y", 90, degrees=True).as_matrix(), (9, 1, 3, 3))
    rotations = np.concatenate([turns, np.broadcast_to(np.eye(3), (9, 21, 3, 3))], axis=1)
    root = np.linspace((50, 100, 0), (90, 100, 0), 9)
    write_bvh(Animation(skeleton, rotations, root, 20.0), hierarchy, tmp_path / "walk.bvh")
    features = make(skeleton="humanml3d", features=263, unit=0.01).read(tmp_path / "walk.bvh")
    assert features.shape == (8, 263)
    np.testing.assert_allclose(features[:, 2], 0.05, atol=1e-6)  # forward, 5 cm a frame
    np.testing.assert_allclose(features[:, 1], 0, atol=1e-6)
    joints = humanml3d.to_joints(features)
    assert joints[..., 1].min() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(joints[0, 1] - joints[0, 0], [0.2, 0, 0], atol=1e-6)  # facing z, its left is along x
