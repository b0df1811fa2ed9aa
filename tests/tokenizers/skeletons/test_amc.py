"""ASF and AMC files: by hand, a slow twin of the format's arithmetic, there and back, and through a tokenizer."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from anyglot.config import typed
from anyglot.errors import ConfigError, MediaError
from anyglot.tokenizers.motion import MotionConfig, MotionTokenizer
from anyglot.tokenizers.skeletons.amc import parse_asf, read_amc, write_amc
from anyglot.tokenizers.skeletons.skeleton import Animation

ASF = """# a made-up skeleton
:version 1.10
:name test
:units
  mass 1.0
  length 0.5
  angle deg
:documentation
   none
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name thigh
     direction 0.6 -0.8 0
     length 5
     axis 10 20 30  XYZ
     dof rx ry rz
     limits (-160.0 20.0)
            (-70.0 70.0)
            (-60.0 70.0)
  end
  begin
     id 2
     name shin
     direction 0 -1 0
     length 4
     axis 0 0 20  XYZ
     dof rx
     limits (-10.0 170.0)
  end
  begin
     id 3
     name foot
     direction 0 0 1
     length 1
     axis 90 0 20  XYZ
     dof rx rz
  end
  begin
     id 4
     name spine
     direction 0 1 0
     length 3
     axis 0 0 0 XYZ
  end
:hierarchy
  begin
    root thigh spine
    thigh shin
    shin foot
  end
"""
DOF = {"root": "xyz", "thigh": "xyz", "shin": "x", "foot": "xz"}
BONES = {  # parent, direction, length, axis
    "thigh": ("root", (0.6, -0.8, 0), 5, (10, 20, 30)),
    "shin": ("thigh", (0, -1, 0), 4, (0, 0, 20)),
    "foot": ("shin", (0, 0, 1), 1, (90, 0, 20)),
    "spine": ("root", (0, 1, 0), 3, (0, 0, 0)),
}


def amc(frames: int) -> tuple[str, list[dict[str, np.ndarray]]]:
    generator = np.random.default_rng(0)
    lines, found = [":FULLY-SPECIFIED", ":DEGREES"], []
    for frame in range(frames):
        values = {name: generator.uniform(-80, 80, len(axes)) for name, axes in DOF.items()}
        values["root"] = np.concatenate([generator.standard_normal(3), values["root"]])
        lines.append(str(frame + 1))
        lines += [f"{name} {' '.join(map(str, numbers))}" for name, numbers in values.items()]
        found.append(values)
    return "\n".join(lines) + "\n", found


def twin(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where each bone ends, one frame, in the file's units: what the format says, bone by bone."""
    place, turned = {"root": values["root"][:3]}, {"root": Rotation.from_euler("xyz", values["root"][3:], degrees=True)}
    for name, (parent, direction, length, axis) in BONES.items():
        own = Rotation.from_euler("xyz", axis, degrees=True)  # lower case: about fixed axes, x first
        local = Rotation.identity()
        for letter, angle in zip(DOF.get(name, ""), values.get(name, ()), strict=True):
            local = Rotation.from_euler(letter, angle, degrees=True) * local
        turned[name] = turned[parent] * own * local * own.inv()
        place[name] = place[parent] + turned[name].apply(np.array(direction) * length / 0.5)
    return place


def test_bones_end_where_the_format_says(tmp_path):
    text, values = amc(5)
    (tmp_path / "a.amc").write_text(text)
    asf = parse_asf(ASF)
    names = asf.skeleton.names
    assert names == ["root", "thigh", "spine", "shin", "foot", "spine end", "foot end"]
    assert [names[joint] for joint in asf.turning] == ["root", "thigh", "shin", "foot"]
    positions = read_amc(tmp_path / "a.amc", asf, 120.0).positions()
    begins = {"thigh": "shin", "shin": "foot", "foot": "foot end", "spine": "spine end"}  # where the next one begins
    for frame, numbers in enumerate(values):
        numbers["root"][:3] /= 0.5
        for bone, place in twin(numbers).items():
            if bone != "root":
                np.testing.assert_allclose(positions[frame, names.index(begins[bone])], place, atol=1e-9)


def test_a_straight_leg_by_hand(tmp_path):
    still = "\n".join(["1", "root 1 2 3 0 0 0", "thigh 0 0 0", "shin 0", "foot 0 0"])
    (tmp_path / "a.amc").write_text(still)
    found = read_amc(tmp_path / "a.amc", parse_asf(ASF), 120.0, unit=0.1)
    wanted = {"root": (0.2, 0.4, 0.6), "shin": (0.8, -0.4, 0.6), "foot": (0.8, -1.2, 0.6), "foot end": (0.8, -1.2, 0.8)}
    for name, place in wanted.items():
        np.testing.assert_allclose(found.positions()[0, found.skeleton.names.index(name)], place, atol=1e-9)


@pytest.mark.parametrize("unit", [1.0, 0.0254])
def test_files_come_back(tmp_path, unit):
    text, _ = amc(6)
    (tmp_path / "a.amc").write_text(text)
    for asf in (parse_asf(ASF), parse_asf(ASF.replace("order TX TY TZ RX RY RZ", "order TX TY TZ RZ RY RX"))):
        animation = read_amc(tmp_path / "a.amc", asf, 120.0, unit)
        write_amc(animation, asf, tmp_path / "b.amc", unit)
        again = read_amc(tmp_path / "b.amc", asf, 120.0, unit)
        np.testing.assert_allclose(again.positions(), animation.positions(), atol=1e-4)
        np.testing.assert_allclose(again.rotations, animation.rotations, atol=1e-6)
    knee = asf.skeleton.names.index("shin")
    twisted = animation.rotations.copy()
    twisted[:, knee] = twisted[:, knee] @ Rotation.from_euler("y", 0.4).as_matrix()
    write_amc(Animation(animation.skeleton, twisted, animation.root, 120.0), asf, tmp_path / "c.amc", unit)
    assert np.isfinite(read_amc(tmp_path / "c.amc", asf, 120.0, unit).rotations).all()  # a knee does not twist


def test_angles_are_in_what_the_file_says(tmp_path):
    text, _ = amc(3)
    (tmp_path / "a.amc").write_text(text)
    degrees = parse_asf(ASF)
    turns = "axis 10 20 30", "axis 0 0 20", "axis 90 0 20"
    radian_asf = ASF.replace("angle deg", "angle rad")
    for turn in turns:
        radian_asf = radian_asf.replace(
            turn, " ".join(["axis", *(repr(np.radians(float(n))) for n in turn.split()[1:])])
        )
    radians = parse_asf(radian_asf.replace("np.float64(", " ").replace(")", " "))
    np.testing.assert_allclose(radians.frames, degrees.frames, atol=1e-12)
    animation = read_amc(tmp_path / "a.amc", degrees, 120.0)
    write_amc(animation, radians, tmp_path / "b.amc")
    assert ":RADIANS" in (tmp_path / "b.amc").read_text()
    for asf in (degrees, radians):  # what the file says stands above what the skeleton says
        for name in ("a", "b"):
            again = read_amc(tmp_path / f"{name}.amc", asf, 120.0)
            np.testing.assert_allclose(again.rotations, animation.rotations, atol=1e-5)


def test_bad_files_are_named(tmp_path):
    text, _ = amc(2)
    asf = parse_asf(ASF)
    for name, content, message in [
        ("bone", text.replace("shin", "tail"), "frame 1: bone (shin|tail)"),
        ("short", "\n".join(text.splitlines()[:-1]), "frame 2: bone foot"),
        ("angles", text.replace("shin ", "shin 1 "), "frame 1: bone shin"),
        ("nan", text.replace("shin ", "shin nan #"), "NaN"),
        ("words", text.replace("shin ", "shin x "), "could not convert"),
        ("empty", "", "no frames"),
    ]:
        (tmp_path / f"{name}.amc").write_text(content)
        with pytest.raises(MediaError, match=rf"{name}\.amc: not a whole AMC file of this skeleton \(.*{message}"):
            read_amc(tmp_path / f"{name}.amc", asf, 120.0)
    with pytest.raises(MediaError, match="no such file"):
        read_amc(tmp_path / "absent.amc", asf, 120.0)
    for content, message in [
        (ASF.replace(":hierarchy", ":tree"), "no :hierarchy"),
        (ASF.replace("shin foot", "shin toe"), "toe"),
        (ASF.replace("position 0 0 0", "position 1 0 0"), "position or orientation"),
        (ASF.replace("order TX TY TZ RX RY RZ", "order TX TY TZ"), "expected all of"),
        (ASF.replace("direction 0 1 0", "direction 0 up 0"), "could not convert"),
        (ASF.replace("direction 0 1 0", "direction 0 nan 0"), "NaN or infinity"),
        (ASF.replace("length 0.5", "length 0"), "unit of length is 0.0"),
        (ASF.replace("dof rx rz", "dof rx rx"), "bone foot turns about rx rx"),
    ]:
        with pytest.raises(MediaError, match=message):
            parse_asf(content)


def test_a_tokenizer_reads_and_writes_them(tmp_path):
    text, _ = amc(24)
    (tmp_path / "01.asf").write_text(ASF)
    (tmp_path / "01_02.amc").write_text(text)
    network = {"width": 8, "halvings": 1, "blocks": 0}
    mapping = {
        "features": 29,
        "fps": 30.0,
        "network": network,
        "dim": 4,
        "quantizer": {"type": "vq", "size": 8, "kmeans_init": False},
    }
    tokenizer = MotionTokenizer(typed(MotionConfig, {**mapping, "hierarchy": str(tmp_path / "01.asf")})).eval()
    motion = tokenizer.read(tmp_path / "01_02.amc")
    assert motion.shape == (6, 29)  # 120 frames a second to 30
    tokenizer.begin([motion])
    tokenizer.write(tokenizer.decode(tokenizer.encode([motion]))[0], tmp_path / "out.amc")
    assert len(read_amc(tmp_path / "out.amc", parse_asf(ASF), 120.0).root) == 21  # 5 times 4 frames, and the first
    (turning,) = tokenizer.decode(tokenizer.encode([motion]))
    once = tokenizer.read(tmp_path / "out.amc")  # a movement that the skeleton can make
    assert once.shape == turning.shape
    tokenizer.write(once, tmp_path / "again.amc")
    np.testing.assert_allclose(tokenizer.read(tmp_path / "again.amc"), once, atol=1e-4)
    with pytest.raises(MediaError, match="knows no skeleton of .bvh"):
        tokenizer.write(motion, tmp_path / "out.bvh")
    (tmp_path / "01_03.amc").write_text(text.replace("shin", "tail"))
    with pytest.raises(MediaError, match=r"01_03\.amc: not a whole AMC file of this skeleton"):
        tokenizer.read(tmp_path / "01_03.amc")
    body = MotionTokenizer(typed(MotionConfig, {**mapping, "features": 263, "skeleton": "humanml3d"})).eval()
    with pytest.raises(MediaError, match="joint pelvis of HumanML3D's 22 is missing"):
        body.read(tmp_path / "01_02.amc")
    (tmp_path / "03.asf").write_text(ASF.replace("shin foot", "shin toe"))
    (tmp_path / "03_01.amc").write_text(text)
    with pytest.raises(MediaError, match=r"03\.asf: not a whole ASF file .*toe"):
        body.read(tmp_path / "03_01.amc")
    (tmp_path / "02_01.amc").write_text(text)
    with pytest.raises(MediaError, match="its skeleton is missing; put 02_01.asf beside it"):
        body.read(tmp_path / "02_01.amc")
    with pytest.raises(ConfigError, match="hierarchy: not an ASF file"):
        MotionTokenizer(typed(MotionConfig, {**mapping, "hierarchy": "line one\nline two"}))
