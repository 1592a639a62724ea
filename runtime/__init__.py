"""CLN runtime: 3D faces from photographs with NumPy, OpenCV and one inference engine."""

from runtime.camera import Camera, MetricPose
from runtime.errors import ClnError, EngineUnavailableError, FileFormatError, InvalidInputError, MismatchError
from runtime.face import Face, Pose
from runtime.face_data import faces_to_csv
from runtime.face_model import FaceModel, load_face_model
from runtime.image import read_image
from runtime.manifest import Manifest
from runtime.reconstructor import Reconstructor
from runtime.roi import Roi, crop

__all__ = [
    "Camera",
    "ClnError",
    "EngineUnavailableError",
    "Face",
    "FaceModel",
    "FileFormatError",
    "InvalidInputError",
    "Manifest",
    "MetricPose",
    "MismatchError",
    "Pose",
    "Reconstructor",
    "Roi",
    "crop",
    "faces_to_csv",
    "load_face_model",
    "read_image",
]
