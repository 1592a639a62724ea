/** The constants of the Python runtime, generated from its modules by `constants.py`: none is copied by hand. */
export { default as constants } from "../../generated/constants.json";
