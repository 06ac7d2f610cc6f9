"""Makes the Rust tests' Python environment once and prints the path of its python.

It has an S3 server that runs on this machine (moto), an independent reader of Parquet files
(pyarrow), and what chat templates are compared with (jinja2, and pip to fetch packages that hold some).
"""

from environments import python_with

# moto[server] would bring 180 MB more, for clouds' other services.
PACKAGES = [
    "moto[s3]==5.2.5",
    "flask==3.1.3",
    "flask-cors==6.0.5",
    "jinja2==3.1.6",
    "pip==26.3",
    "pyarrow==26.0.1",
]
HINT = "To use an environment of your own: CHES_TEST_PYTHON=/path/to/python cargo test"

if __name__ == "__main__":
    print(python_with("test-tools", PACKAGES, HINT))
