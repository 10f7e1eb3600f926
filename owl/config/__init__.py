"""The JSON that describes an experiment: typed, with the familiar scripts' keys translated."""
