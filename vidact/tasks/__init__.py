"""What is learned and how it is scored: Lightning modules and their schedules."""

from vidact.tasks.clip_classification import ClipClassification
from vidact.tasks.offline_detection import OfflineDetection
from vidact.tasks.online_detection import OnlineDetection
from vidact.tasks.schedules import Schedule

__all__ = ["ClipClassification", "OfflineDetection", "OnlineDetection", "Schedule"]
